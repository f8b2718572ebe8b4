"""Scores the request of a stored verdict again, with the workers of this process, and compares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from forklight.v1 import reward_pb2, types_pb2
from forklight_core import ids
from forklight_core.blobs import BlobStore
from forklight_core.errors import DataLossError, NotFoundError
from forklight_core.wire import SCHEMA_VERSION, parse, unpack_payload
from forklight_reward.audit.evidence import EvidenceStore
from forklight_reward.audit.record import StoredVerdict
from forklight_reward.front.fleet import Fleet
from forklight_reward.front.route import Case
from forklight_reward.ports import Outcome
from forklight_reward.shaping.shaper import read_shaping

CLOSE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Both sides, and the names of what differs between them."""

    stored: Mapping[str, object]
    replayed: Mapping[str, object]
    differs: tuple[str, ...]
    other_version: bool
    """Who judges now is not who judged then: a difference may be its doing."""

    @property
    def is_same(self) -> bool:
        """Whether status, score and all parts agree."""
        return not self.differs


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """Where requests are read from."""

    run_folder: Path
    blobs: BlobStore
    evidence: EvidenceStore

    def case_of(self, stored: StoredVerdict) -> Case:
        """Specification and response of a verdict."""
        facts = stored.facts
        if facts.request:
            request = parse(reward_pb2.ScoreRequest, self.evidence.get(facts.request))
            return Case(envelope=request.envelope, spec=request.spec, response=request.response)
        if not facts.payload:
            raise NotFoundError(
                f"the request for {stored.sample} was too large to be kept beside its verdict"
            )
        spec = parse(types_pb2.TaskSpec, self.blobs.get(facts.spec))
        try:
            payload = unpack_payload(self.blobs.get(facts.payload))
        except NotFoundError as error:
            raise NotFoundError(
                f"the response of {stored.sample} is gone ({error}). Payloads of samples that are over are "
                "deleted after a while: FORKLIGHT_BLOB_MARGIN_S of the buffer says how long they stay"
            ) from None
        if payload.sample_id != stored.sample:
            raise DataLossError(f"payload {facts.payload} is of {payload.sample_id}, not of {stored.sample}")
        return Case(
            envelope=_envelope(stored),
            spec=spec,
            response=payload.text,
            opened_version=facts.opened_version,
            session=payload.session,
        )


def _envelope(stored: StoredVerdict) -> types_pb2.Envelope:
    group = ids.group_of(stored.sample)
    return types_pb2.Envelope(
        schema_version=SCHEMA_VERSION,
        run_id=group.partition("/")[0],
        group_id=group,
        sample_id=stored.sample,
        attempt=stored.attempt,
        traceparent=ids.sample_traceparent(stored.sample),
    )


async def replay(stored: StoredVerdict, archive: Archive, fleet: Fleet, timeout_s: float) -> Replay:
    """Judge again, and rule under the weights and the shaping of then."""
    outcome = await fleet.route(archive.case_of(stored), timeout_s, 0)
    score, parts = _rule(outcome, stored, archive.run_folder)
    then: Mapping[str, object] = {**stored.parts, "status": stored.outcome.status, "score": stored.score}
    now: Mapping[str, object] = {**parts, "status": outcome.status, "score": score}
    names = sorted({*then, *now})
    return Replay(
        stored=_side(stored.outcome, stored.score, stored.parts),
        replayed=_side(outcome, score, parts),
        differs=tuple(name for name in names if not _agree(then.get(name), now.get(name))),
        other_version=outcome.worker_version != stored.outcome.worker_version,
    )


def _rule(outcome: Outcome, stored: StoredVerdict, folder: Path) -> tuple[float | None, Mapping[str, float]]:
    if not outcome.is_scored:
        return None, {}
    facts, shape = stored.facts, None
    if stored.shaping:
        frozen = read_shaping(folder, facts.opened_version)
        if frozen.name != stored.shaping:
            raise DataLossError(
                f"the verdict was shaped by {stored.shaping!r}, the folder holds {frozen.name!r}"
            )
        shape = frozen.shape_of(facts.source)
    score, parts = facts.policy.compose(outcome, facts.length, shape)
    return score, {part.value: value for part, value in parts.items()}


def _side(outcome: Outcome, score: float | None, parts: Mapping[str, float]) -> Mapping[str, object]:
    return {
        "status": outcome.status.value,
        "score": score,
        "parts": dict(parts),
        "evidence": outcome.evidence,
        "worker": outcome.worker,
        "worker_version": outcome.worker_version,
    }


def _agree(then: object, now: object) -> bool:
    if isinstance(then, float) and isinstance(now, float):
        return math.isclose(then, now, abs_tol=CLOSE)
    return then == now
