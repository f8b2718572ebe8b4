"""The line of a verdict in the audit: everything that it says, depends on and can be replayed from."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import cast

from forklight.v1 import types_pb2
from forklight_core.errors import DataLossError
from forklight_reward.audit.chain import Body
from forklight_reward.front.reward import Length, RewardPolicy
from forklight_reward.front.verdict import STATUS_FROM_WIRE
from forklight_reward.ports import FRONT_PARTS, Outcome, Part, Status, Usage

TYPE = "verdict"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a verdict was made from, beside the outcome."""

    kind: str
    work_key: str
    length: Length
    policy: RewardPolicy
    source: str = ""
    opened_version: int = 0
    spec: str = ""
    """Blob of the specification."""
    payload: str = ""
    """Blob of the trajectory."""
    request: str = ""
    """Evidence that holds specification and response themselves."""


def verdict_body(verdict: types_pb2.Verdict, facts: Facts) -> Body:
    """The line."""
    envelope = verdict.envelope
    return {
        "type": TYPE,
        "at": time.time(),
        "key": verdict.key,
        "work_key": facts.work_key,
        "sample": envelope.sample_id,
        "attempt": envelope.attempt,
        "kind": facts.kind,
        "source": facts.source,
        "opened_version": facts.opened_version,
        "status": STATUS_FROM_WIRE[verdict.status].value,
        "score": _number(verdict.score) if verdict.HasField("score") else None,
        "mask": verdict.mask,
        "parts": {part.name: _number(part.value) for part in verdict.parts},
        "evidence": verdict.evidence,
        "evidence_ref": verdict.evidence_ref,
        "worker": verdict.worker,
        "worker_version": verdict.worker_version,
        "versions": dict(sorted(verdict.versions.items())),
        "tier": verdict.tier,
        "usage": asdict(_usage(verdict)) if verdict.HasField("usage") else None,
        "num_attempts": verdict.num_attempts,
        "wall_s": round(verdict.wall_s, 6),
        "reused": verdict.reused,
        "spec": facts.spec,
        "payload": facts.payload,
        "request": facts.request,
        "length": asdict(facts.length),
        "policy": asdict(facts.policy),
    }


def _number(value: float) -> float | str:
    """JSON has no word for what is not finite; the buffer refuses such a score, the line says it."""
    return value if math.isfinite(value) else str(value)


def _usage(verdict: types_pb2.Verdict) -> Usage:
    used = verdict.usage
    return Usage(
        cpu_ms=used.cpu_ms,
        wall_ms=used.wall_ms,
        mem_peak_bytes=used.mem_peak_bytes,
        out_bytes=used.out_bytes,
        tokens=used.tokens,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVerdict:
    """What a line says, for whoever uses it again."""

    key: str
    sample: str
    attempt: int
    outcome: Outcome
    score: float | None
    parts: Mapping[str, float]
    shaping: str
    facts: Facts


def read_verdict(body: Body) -> StoredVerdict:
    """The verdict of a line; DataLossError when it lacks something."""
    try:
        return _read(body)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataLossError(f"the audit line {body.get('seq')} holds no verdict: {error!r}") from None


def _read(body: Mapping[str, object]) -> StoredVerdict:
    parts = {str(name): float(str(value)) for name, value in _mapping(body["parts"]).items()}
    versions = {str(name): str(value) for name, value in _mapping(body["versions"]).items()}
    used = body["usage"]
    shaping = versions.pop("shaping", "")
    outcome = Outcome(
        status=Status(str(body["status"])),
        parts={Part(name): value for name, value in parts.items() if name not in FRONT_PARTS},
        evidence=str(body["evidence"]),
        worker=str(body["worker"]),
        worker_version=str(body["worker_version"]),
        tier=str(body["tier"]),
        usage=None if used is None else Usage(**cast("dict[str, int]", _mapping(used))),
        versions=versions,
        detail_ref=str(body["evidence_ref"]),
        reused=bool(body["reused"]),
    )
    return StoredVerdict(
        key=str(body["key"]),
        sample=str(body["sample"]),
        attempt=int(str(body["attempt"])),
        outcome=outcome,
        score=None if body["score"] is None else float(str(body["score"])),
        parts=parts,
        shaping=shaping,
        facts=_facts(body),
    )


def _facts(body: Mapping[str, object]) -> Facts:
    return Facts(
        kind=str(body["kind"]),
        work_key=str(body["work_key"]),
        length=_length(_mapping(body["length"])),
        policy=RewardPolicy(**cast("dict[str, int]", _mapping(body["policy"]))),
        source=str(body["source"]),
        opened_version=int(str(body["opened_version"])),
        spec=str(body["spec"]),
        payload=str(body["payload"]),
        request=str(body["request"]),
    )


def _length(found: Mapping[str, object]) -> Length:
    return Length(
        num_response_tokens=int(str(found["num_response_tokens"])),
        window_tokens=int(str(found["window_tokens"])),
        counts=bool(found["counts"]),
    )


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, found {type(value).__name__}")
    return value
