"""What the console needs from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from forklight.v1 import buffer_pb2, rollout_pb2, types_pb2
from forklight_console.steps.series import Series, SeriesQuery

StepRecord = Mapping[str, object]
JudgeRecord = Mapping[str, object]


class RunView(Protocol):
    """One run, to look at. Errors are those of `forklight_core.errors`."""

    async def status(self) -> buffer_pb2.GetStatusReply:
        """Phase, window, counts, queues, evaluations, stuck samples, the last events."""

    async def samples(
        self, *, state: types_pb2.SampleState | None, after: str, limit: int
    ) -> buffer_pb2.ListSamplesReply:
        """A page of samples, in order of id, behind the sample `after`."""

    async def events(self, *, after: str, limit: int, newest_first: bool) -> buffer_pb2.ListEventsReply:
        """A page of what was reported about the run, behind the `next` of the page before."""

    async def steps(self, *, after: int, limit: int) -> Sequence[StepRecord]:
        """The newest records of optimizer steps behind the step `after`, oldest first."""

    async def series(self, query: SeriesQuery) -> Series:
        """Numbers of the step records, thinned for a chart."""

    async def judge(self, *, limit: int) -> Sequence[JudgeRecord]:
        """The newest windows, probes and switches of the judge, oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodAnswer:
    """What a rollout pod says of itself; `reply` is None from one that does not answer."""

    name: str
    address: str
    reply: rollout_pb2.GetRolloutStatusReply | None = None
    problem: str = ""


class PodSource(Protocol):
    """The rollout pods of the run."""

    async def ask(self) -> Sequence[PodAnswer]:
        """What each of them says now, by name."""
