"""What a verdict depends on, as keys: same key, same verdict.

The work key is about the judging of a text: kind, version of who judges, specification, response. The
verdict's key adds what the front makes of the outcome: length and window, weights, the state of the shaping.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from forklight.v1 import types_pb2
from forklight_reward.front.reward import Length, RewardPolicy
from forklight_reward.front.route import Case, TaskKind

WORK = b"forklight-work/1"
VERDICT = b"forklight-verdict/1"


def digest_fields(*fields: bytes) -> str:
    """sha256 over fields that each bring their length: no two lists of fields run together."""
    found = hashlib.sha256()
    for each in fields:
        found.update(len(each).to_bytes(8, "big"))
        found.update(each)
    return found.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Which task and which text, by their hashes."""

    kind: str
    spec_hash: str
    response_hash: str
    circumstances: str = ""
    """What else the judging depends on: a session, the version that chooses a calibration."""

    def work_key(self, worker_version: str) -> str:
        """Names the judging of this text by workers of a version."""
        fields = (self.kind, worker_version, self.spec_hash, self.response_hash, self.circumstances)
        return digest_fields(WORK, *(each.encode() for each in fields))


def content_of(case: Case) -> Content:
    """The content of a case that could be read. A judge is calibrated by the version of the group."""
    session = "" if case.session is None else repr(case.session)
    version = str(case.opened_version) if case.spec.kind == TaskKind.JUDGE else ""
    return Content(
        kind=case.spec.kind,
        spec_hash=hashlib.sha256(case.spec.SerializeToString(deterministic=True)).hexdigest(),
        response_hash=hashlib.sha256(case.response.encode("utf-8", "surrogatepass")).hexdigest(),
        circumstances=digest_fields(session.encode(), version.encode()) if session or version else "",
    )


def unread_content(task: types_pb2.ScoringTask) -> Content:
    """The content of a task whose blobs could not be read: by the names of the blobs."""
    return Content(kind=task.kind, spec_hash=task.spec.id, response_hash=task.trajectory.payload.id)


def verdict_key(work_key: str, length: Length, policy: RewardPolicy, shaping: str) -> str:
    """Names a verdict: the work and all else that its score depends on."""
    window = length.window_tokens or policy.window_tokens
    matters = bool(policy.zone_tokens and length.counts)
    measured = f"{length.num_response_tokens}/{window}/{policy.zone_tokens}" if matters else ""
    weights = f"{policy.correct_weight!r}/{policy.format_weight!r}"
    fields = (work_key, measured, weights, shaping)
    return digest_fields(VERDICT, *(each.encode() for each in fields))
