"""What the front door needs from outside: three kinds of worker and the buffer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from forklight.v1 import types_pb2
from forklight_core.queues import Lease


class Part(StrEnum):
    """Names of the parts of a reward."""

    CORRECT = "correct"
    FORMAT = "format"
    JUDGE = "judge"
    OVERLONG = "overlong"


class Status(StrEnum):
    """How an outcome came about; the first four have a score."""

    OK = "ok"
    WRONG = "wrong"
    LIMIT = "limit"
    UNVERIFIABLE = "unverifiable"
    ABSTAIN = "abstain"
    INFRA_ERROR = "infra_error"


SCORED = frozenset({Status.OK, Status.WRONG, Status.LIMIT, Status.UNVERIFIABLE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a worker says of one response. Without a score it has no parts."""

    status: Status
    parts: dict[Part, float]
    evidence: str
    worker: str
    worker_version: str = ""

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
        self, *, envelope: types_pb2.Envelope, spec_json: str, source: str, timeout_s: float
    ) -> Outcome:
        """Part `correct`."""
        ...


class Judge(Protocol):
    """Generative reward model."""

    async def judge(
        self, *, envelope: types_pb2.Envelope, prompt: str, reference: str, response: str, timeout_s: float
    ) -> Outcome:
        """Part `judge`."""
        ...


class Buffer(Protocol):
    """The only writer of a sample's state."""

    async def submit_verdict(self, verdict: types_pb2.Verdict, lease: Lease) -> None:
        """Idempotent by sample id; FencedError when the lease is lost."""
        ...
