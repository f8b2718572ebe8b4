"""From a finished sample to what is handed over: the payload, the header, and the span of its generation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from forklight.v1 import types_pb2
from forklight_core import ids
from forklight_core.blobs import BlobRef
from forklight_core.telemetry import Attribute, SpanKind, emit_span
from forklight_core.telemetry.conventions import GenAi, Messaging, queue_attributes
from forklight_core.wire import SCHEMA_VERSION, pack_payload
from forklight_rollout.generation.groups import FinishedSample
from forklight_rollout.leases.held_groups import HeldGroup
from forklight_rollout.leases.segments import arrays_of
from forklight_rollout.ports import FinishReason
from forklight_rollout.tools.format import answered_calls, scored_text
from forklight_rollout.tools.shell import session_of

GENERATE_SPAN = "rollout.generate"

_REASONS: Mapping[FinishReason, types_pb2.FinishReason] = {
    FinishReason.STOP: types_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: types_pb2.FINISH_REASON_LENGTH,
    FinishReason.REPETITION: types_pb2.FINISH_REASON_REPETITION,
    FinishReason.CANCELLED: types_pb2.FINISH_REASON_CANCELLED,
}


def build_payload(sample: FinishedSample, *, decode: Callable[[list[int]], str], contract: str) -> bytes:
    """The bytes of the sample's blob. Its text, and what its session left behind, are what may be scored."""
    ids, drawn = sample.response.ids.tolist(), sample.response.drawn
    if sample.tools is None:
        return pack_payload(replace(arrays_of(sample, contract), text=decode(ids)))
    text = scored_text(ids, drawn, decode)
    session = session_of(answered_calls(ids, drawn, decode), sample.tools)
    return pack_payload(replace(arrays_of(sample, contract), text=text, session=session))


def build_trajectory(
    sample: FinishedSample, group: HeldGroup, *, payload: BlobRef, pod: str, traceparent: str
) -> types_pb2.Trajectory:
    """The header that travels; its arrays are in the payload."""
    task = group.task
    return types_pb2.Trajectory(
        envelope=types_pb2.Envelope(
            schema_version=SCHEMA_VERSION,
            run_id=task.envelope.run_id,
            group_id=sample.group_id,
            sample_id=sample.sample_id,
            attempt=group.lease.fence,
            traceparent=traceparent,
        ),
        prompt_id=task.prompt_id,
        payload=types_pb2.BlobRef(id=payload.id, size_bytes=payload.size_bytes),
        num_prompt_tokens=len(sample.prompt_ids),
        num_response_tokens=len(sample.response.ids),
        finish_reason=_REASONS[sample.reason],
        version_spans=[
            types_pb2.VersionSpan(start=span.start, version=span.version) for span in sample.response.spans
        ],
        pod=pod,
        started_at=sample.started_at,
        finished_at=sample.finished_at,
        purpose=task.purpose,
    )


def emit_generate_span(sample: FinishedSample, *, pod: str) -> str:
    """Put the generation into the sample's own trace; returns the span's trace context."""
    attributes: dict[str, Attribute] = {
        **queue_attributes("tasks", sample.group_id, Messaging.PROCESS),
        GenAi.OPERATION: GenAi.TEXT_COMPLETION,
        GenAi.INPUT_TOKENS: len(sample.prompt_ids),
        GenAi.OUTPUT_TOKENS: len(sample.response.ids),
        GenAi.FINISH_REASONS: (sample.reason.value,),
        "rl.sample.id": sample.sample_id,
        "rl.group.id": sample.group_id,
        "rl.tokens.prompt": len(sample.prompt_ids),
        "rl.tokens.response": len(sample.response.ids),
        "rl.finish_reason": sample.reason.value,
        "rl.pod": pod,
    }
    if sample.response.spans:
        attributes["rl.version.first"] = sample.response.spans[0].version
        attributes["rl.version.last"] = sample.response.spans[-1].version
    return emit_span(
        GENERATE_SPAN,
        traceparent=ids.sample_traceparent(sample.sample_id),
        start_s=sample.started_at,
        end_s=sample.finished_at,
        attributes=attributes,
        kind=SpanKind.CONSUMER,
    )
