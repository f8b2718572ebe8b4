"""What the front door needs from outside: three kinds of worker and the buffer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from forklight.v1 import types_pb2
from forklight_core.queues import Lease
from forklight_core.wire import Session


class Part(StrEnum):
    """Names of the parts of a reward."""

    CORRECT = "correct"
    FORMAT = "format"
    JUDGE = "judge"
    JUDGE_RAW = "judge_raw"
    LENGTH_OFFSET = "length_offset"
    CONSTRAINTS = "constraints"
    OVERLONG = "overlong"
    CLIP = "clip"
    NORMALISED = "normalised"


FRONT_PARTS = frozenset({Part.OVERLONG, Part.CLIP, Part.NORMALISED})
"""Parts that the front adds to what a worker found. They are terms of the score, weighted already."""


class Status(StrEnum):
    """How an outcome came about; the first four have a score."""

    OK = "ok"
    WRONG = "wrong"
    LIMIT = "limit"
    UNVERIFIABLE = "unverifiable"
    ABSTAIN = "abstain"
    INFRA_ERROR = "infra_error"


class Tier(StrEnum):
    """Where an outcome was made, by how much stands between it and a stranger's text."""

    INLINE = "inline"
    PROCESS = "process"
    JAIL = "jail"
    CONTAINER = "container"
    POD = "pod"
    ENDPOINT = "endpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What judging took; 0 where nobody measured."""

    cpu_ms: int = 0
    wall_ms: int = 0
    mem_peak_bytes: int = 0
    out_bytes: int = 0
    tokens: int = 0


SCORED = frozenset({Status.OK, Status.WRONG, Status.LIMIT, Status.UNVERIFIABLE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a worker says of one response. Without a score it has no parts."""

    status: Status
    parts: dict[Part, float]
    evidence: str
    worker: str
    worker_version: str = ""
    tier: str = ""
    """A Tier, or what a worker of another release calls it."""
    usage: Usage | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of whatever else had a say, by name: calibration, rootfs, ..."""
    detail: str = ""
    """Longer evidence for the audit: what was printed, what a judge wrote."""
    detail_ref: str = ""
    """The name of it, where it is kept already."""
    reused: bool = False
    """Known from an earlier verdict of the same content."""

    @property
    def is_scored(self) -> bool:
        """Whether there is a score; a failure or an abstention never is one."""
        return self.status in SCORED


class Verifier(Protocol):
    """Rules: mathematics and format."""

    async def verify(
        self, *, envelope: types_pb2.Envelope, gold: str, response: str, timeout_s: float
    ) -> Outcome:
        """Parts `correct` and `format`."""
        ...


class Sandbox(Protocol):
    """Untrusted programs."""

    async def execute(
        self,
        *,
        envelope: types_pb2.Envelope,
        spec_json: str,
        source: str,
        session: Session | None = None,
        timeout_s: float,
    ) -> Outcome:
        """Part `correct`. Of a repository task a session may be the answer instead of the source."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeTask:
    """What a judge is asked."""

    prompt: str
    reference: str
    response: str
    spec_json: str = ""
    opened_version: int = 0
    """Policy version when the group was opened: chooses the calibration."""


class Judge(Protocol):
    """Generative reward model."""

    async def judge(self, *, envelope: types_pb2.Envelope, task: JudgeTask, timeout_s: float) -> Outcome:
        """Part `judge`."""
        ...


class Buffer(Protocol):
    """The only writer of a sample's state."""

    async def submit_verdict(self, verdict: types_pb2.Verdict, lease: Lease) -> None:
        """Idempotent by sample id; FencedError when the lease is lost."""
        ...
