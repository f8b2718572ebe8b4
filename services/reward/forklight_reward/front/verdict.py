"""Builds the Verdict message: the score is absent unless there is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from forklight.v1 import types_pb2
from forklight_core.telemetry import current_traceparent
from forklight_core.wire import SCHEMA_VERSION
from forklight_reward.front.attempts import MAX_EVIDENCE
from forklight_reward.ports import Outcome, Part, Status

STATUS_ON_WIRE = {
    Status.OK: types_pb2.VERDICT_STATUS_OK,
    Status.WRONG: types_pb2.VERDICT_STATUS_WRONG,
    Status.LIMIT: types_pb2.VERDICT_STATUS_LIMIT,
    Status.UNVERIFIABLE: types_pb2.VERDICT_STATUS_UNVERIFIABLE,
    Status.ABSTAIN: types_pb2.VERDICT_STATUS_ABSTAIN,
    Status.INFRA_ERROR: types_pb2.VERDICT_STATUS_INFRA_ERROR,
}
STATUS_FROM_WIRE = {wire: status for status, wire in STATUS_ON_WIRE.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What scoring took."""

    wall_s: float
    num_attempts: int


def answer_envelope(envelope: types_pb2.Envelope, attempt: int) -> types_pb2.Envelope:
    """The ids of the request under our schema version, with the running span as sender."""
    return types_pb2.Envelope(
        schema_version=SCHEMA_VERSION,
        run_id=envelope.run_id,
        group_id=envelope.group_id,
        sample_id=envelope.sample_id,
        attempt=attempt,
        traceparent=current_traceparent(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What the front makes of an outcome: key, score, all parts, and the state that shaped them."""

    key: str
    score: float | None
    parts: Mapping[Part, float]
    shaping: str = ""
    evidence_ref: str = ""


def build_verdict(
    envelope: types_pb2.Envelope, outcome: Outcome, ruling: Ruling, effort: Effort
) -> types_pb2.Verdict:
    """The message about one sample. What has no score is masked."""
    shaping = {"shaping": ruling.shaping} if ruling.shaping else {}
    verdict = types_pb2.Verdict(
        envelope=envelope,
        status=STATUS_ON_WIRE[outcome.status],
        score=ruling.score,
        parts=[types_pb2.RewardPart(name=name, value=value) for name, value in ruling.parts.items()],
        evidence=outcome.evidence[:MAX_EVIDENCE],
        worker=outcome.worker,
        worker_version=outcome.worker_version,
        wall_s=effort.wall_s,
        num_attempts=effort.num_attempts,
        mask=ruling.score is None,
        key=ruling.key,
        evidence_ref=ruling.evidence_ref,
        versions={outcome.worker: outcome.worker_version, **outcome.versions, **shaping},
        tier=outcome.tier,
        reused=outcome.reused,
    )
    if outcome.usage is not None:
        verdict.usage.CopyFrom(types_pb2.VerdictUsage(**asdict(outcome.usage)))
    return verdict
