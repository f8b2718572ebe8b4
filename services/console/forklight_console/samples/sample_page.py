"""One sample in words: where it stands, what it said, how it was judged. What cannot be read says why."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forklight.v1 import buffer_pb2, types_pb2
from forklight_console.samples.ports import SampleDesk, VerdictLine
from forklight_console.samples.searching import SampleRow, make_row
from forklight_console.samples.tokens import Stretch, Window, group_advantages, make_window, put_in_stretches
from forklight_console.samples.verdict_panel import VerdictPanel, from_line, from_message
from forklight_console.shown import format_moment, format_number, visible
from forklight_core import ids
from forklight_core.errors import DataLossError, ForklightError, NotFoundError
from forklight_core.wire import Span, TrajectoryArrays

MOST_PROMPT = 20_000
MOST_STRETCHES = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """A response that was read, or why it was not."""

    arrays: TrajectoryArrays | None
    spans: Sequence[Span]
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePage:
    """What the template draws."""

    row: SampleRow
    sample_id: str
    facts: Sequence[tuple[str, str]]
    advantage: float | None
    prompt: str
    problem: str
    window: Window | None
    spans: Sequence[Span]
    stretches: Sequence[Stretch]
    num_stretches: int
    commands: Sequence[str]
    verdicts: Sequence[VerdictPanel]
    verdict_problem: str
    trace_id: str
    trace_link: str
    siblings: Sequence[tuple[str, str, bool]]
    text_problem: str


def find_sample(group: buffer_pb2.GetGroupReply, name: str) -> buffer_pb2.GroupSample:
    """The sample of a group; NotFoundError."""
    for sample in group.samples:
        if sample.record.sample_id.endswith(f"/{name}"):
            return sample
    raise NotFoundError(f"group {group.group_id} has no sample {visible(name, most=40)}")


def blob_ids_of(sample: buffer_pb2.GroupSample) -> list[str]:
    """Of its response, or of what is saved of it."""
    if sample.record.payload.id:
        return [sample.record.payload.id]
    return [segment.payload.id for segment in sample.segments]


def read_payload(desk: SampleDesk, sample: buffer_pb2.GroupSample) -> Payload:
    """Never raises for what a blob store can do: that a payload is gone is a word on the page."""
    blob_ids, record = blob_ids_of(sample), sample.record
    if not blob_ids:
        return Payload(arrays=None, spans=(), problem="nothing was generated for this sample yet, or ever")
    try:
        arrays = desk.payloads.read(blob_ids)
        if arrays.sample_id != record.sample_id:
            raise DataLossError(f"it is of {arrays.sample_id}")
    except NotFoundError:
        return Payload(arrays=None, spans=(), problem=_gone(blob_ids[0], record))
    except DataLossError as error:
        return Payload(
            arrays=None, spans=(), problem=f"the payload {blob_ids[0]} is corrupt: {visible(str(error))}"
        )
    except (ForklightError, OSError, ValueError) as error:
        return Payload(arrays=None, spans=(), problem=f"the payload cannot be read: {visible(str(error))}")
    return Payload(arrays=arrays, spans=_spans(arrays, sample))


def _gone(blob_id: str, record: buffer_pb2.SampleRecord) -> str:
    if record.state < types_pb2.SAMPLE_STATE_TRAINED:
        return f"the payload {blob_id} is not in the blob store"
    return (
        f"the payload {blob_id} is not in the blob store: it is deleted FORKLIGHT_BLOB_MARGIN_S after the "
        "sample's end, a trained one once no kept checkpoint needs it"
    )


def _spans(arrays: TrajectoryArrays, sample: buffer_pb2.GroupSample) -> Sequence[Span]:
    """As the payload, its header, or a single version says."""
    if arrays.spans:
        return arrays.spans
    header = [Span(start=span.start, version=span.version) for span in sample.trajectory.version_spans]
    record = sample.record
    if not header and record.min_version == record.max_version:
        return (Span(start=0, version=record.min_version),)
    return header


async def make_sample_page(
    desk: SampleDesk, group: buffer_pb2.GetGroupReply, name: str, start: int
) -> SamplePage:
    """Everything about a sample; `start` is where the window of tokens begins."""
    sample = find_sample(group, name)
    record = sample.record
    payload = await asyncio.to_thread(read_payload, desk, sample)
    window = None
    if payload.arrays is not None and len(payload.arrays.response_ids):
        window = await asyncio.to_thread(make_window, payload.arrays, payload.spans, desk.text, start)
    stretches = [] if payload.arrays is None else put_in_stretches(payload.arrays)
    session = None if payload.arrays is None else payload.arrays.session
    verdicts, verdict_problem = await _verdicts(desk, group, sample)
    trace_id = f"{ids.trace_id(record.sample_id):032x}"
    rewards = [each.record.reward if each.record.HasField("reward") else None for each in group.samples]
    advantages = group_advantages(rewards)
    return SamplePage(
        row=make_row(record),
        sample_id=record.sample_id,
        facts=_facts(group, sample, payload),
        advantage=advantages[list(group.samples).index(sample)],
        prompt=_prompt(desk, group, payload),
        problem=payload.problem,
        window=window,
        spans=payload.spans,
        stretches=stretches[:MOST_STRETCHES],
        num_stretches=len(stretches),
        commands=[visible(each, most=4000) for each in (session.commands if session is not None else ())],
        verdicts=verdicts,
        verdict_problem=verdict_problem,
        trace_id=trace_id,
        trace_link=desk.trace_url.replace("{trace_id}", trace_id),
        siblings=_siblings(group, record.sample_id),
        text_problem=desk.text.problem if window is not None else "",
    )


def _siblings(group: buffer_pb2.GetGroupReply, sample_id: str) -> list[tuple[str, str, bool]]:
    rows = [(make_row(each.record), each.record.sample_id == sample_id) for each in group.samples]
    return [(row.name.rpartition("/")[2], row.link, is_this) for row, is_this in rows]


def _prompt(desk: SampleDesk, group: buffer_pb2.GetGroupReply, payload: Payload) -> str:
    """From the prompt file; of a prompt that is gone there, what its tokens say."""
    if group.HasField("prompt"):
        return visible(group.prompt, most=MOST_PROMPT)
    if payload.arrays is None:
        return ""
    ids_of_prompt = payload.arrays.prompt_ids.tolist()
    return visible("".join(desk.text.pieces(ids_of_prompt, 0, len(ids_of_prompt))), most=MOST_PROMPT)


async def _verdicts(
    desk: SampleDesk, group: buffer_pb2.GetGroupReply, sample: buffer_pb2.GroupSample
) -> tuple[Sequence[VerdictPanel], str]:
    record = sample.record
    is_over = record.state >= types_pb2.SAMPLE_STATE_TRAINED
    lines: Sequence[VerdictLine] = await asyncio.to_thread(
        desk.verdicts.find,
        record.sample_id,
        since=group.opened_at,
        until=record.updated_at if is_over else time.time(),
    )
    if lines:
        return [from_line(line) for line in reversed(lines)], ""
    if sample.HasField("verdict"):
        return [
            from_message(sample.verdict)
        ], "the audit log has no line of it here; this is what the buffer knows"
    if record.HasField("reward"):
        return [], "the audit log of verdicts has no line of this sample in this run folder"
    return [], ""


def _facts(
    group: buffer_pb2.GetGroupReply, sample: buffer_pb2.GroupSample, payload: Payload
) -> list[tuple[str, str]]:
    record, header = sample.record, sample.trajectory
    facts = [
        ("state", f"{make_row(record).state} {visible(record.reason, most=400)}".strip()),
        ("since", format_moment(record.updated_at)),
        ("opened", f"{format_moment(group.opened_at)}, version {group.opened_version}"),
        ("window", f"{group.window_tokens:,} tokens"),
        ("finish", make_row(record).finish),
        ("versions", _versions(payload.spans) or make_row(record).versions),
        ("kind, domain", f"{visible(group.kind)}, {visible(group.domain) or '-'}"),
    ]
    if record.step:
        facts.append(("trained", f"step {record.step} of line {record.lineage}"))
    if header.pod:
        took = header.finished_at - header.started_at
        facts.append(("pod", f"{visible(header.pod, most=100)}, {took:.1f} s" if took > 0 else header.pod))
    if payload.arrays is not None:
        arrays = payload.arrays
        facts.append(
            (
                "tokens",
                f"{len(arrays.prompt_ids):,} of the prompt, {len(arrays.response_ids):,} of the response",
            )
        )
        facts.append(("numeric contract", visible(arrays.contract, most=80) or "-"))
    if record.payload.id:
        facts.append(("payload", f"{record.payload.id} ({record.payload.size_bytes:,} bytes)"))
    return facts


def _versions(spans: Sequence[Span]) -> str:
    return ", ".join(f"{span.version} from token {span.start:,}" for span in spans[:12]) + (
        f" and {len(spans) - 12} more" if len(spans) > 12 else ""
    )


def export(
    desk: SampleDesk, group: buffer_pb2.GetGroupReply, sample: buffer_pb2.GroupSample, payload: Payload
) -> Mapping[str, object]:
    """All of a sample as one JSON object."""
    from google.protobuf.json_format import MessageToDict

    arrays = payload.arrays
    found: dict[str, object] = {
        "group": {
            "group_id": group.group_id,
            "kind": group.kind,
            "domain": group.domain,
            "prompt": group.prompt,
        },
        "sample": MessageToDict(sample, preserving_proto_field_name=True),
        "trace_id": f"{ids.trace_id(sample.record.sample_id):032x}",
        "problem": payload.problem,
        "verdicts": [
            {"file": line.file, **line.body}
            for line in desk.verdicts.find(sample.record.sample_id, since=group.opened_at, until=time.time())
        ],
    }
    if arrays is not None:
        found["tokens"] = {
            "prompt_ids": arrays.prompt_ids.tolist(),
            "response_ids": arrays.response_ids.tolist(),
            "logprobs": [_finite(each) for each in arrays.logprobs.tolist()],
            "raw_logprobs": [_finite(each) for each in arrays.raw_logprobs.tolist()],
            "drawn": None if arrays.drawn is None else arrays.drawn.tolist(),
            "version_spans": [[span.start, span.version] for span in payload.spans],
            "text": arrays.text,
            "contract": arrays.contract,
        }
    return found


def _finite(value: float) -> float | str:
    """JSON has no word for what is not finite."""
    return value if abs(value) < float("inf") else format_number(value)
