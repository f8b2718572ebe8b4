"""A run in memory, for tests and for trying the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from forklight.v1 import buffer_pb2, types_pb2
from forklight_console.ports import JudgeRecord, PodAnswer, StepRecord
from forklight_console.steps.series import Series, SeriesQuery, make_series
from forklight_console.steps.table import StepTable
from forklight_core.errors import ForklightError


@dataclass(slots=True, kw_only=True)
class MemoryRunView:
    """Answers from what it was given; `error` is raised in place of the buffer's answers."""

    reply: buffer_pb2.GetStatusReply = field(default_factory=buffer_pb2.GetStatusReply)
    records: list[buffer_pb2.SampleRecord] = field(default_factory=list)
    run_events: list[types_pb2.RunEvent] = field(default_factory=list)
    step_records: list[StepRecord] = field(default_factory=list)
    judge_records: list[JudgeRecord] = field(default_factory=list)
    error: ForklightError | None = None

    async def status(self) -> buffer_pb2.GetStatusReply:
        """The given reply."""
        if self.error:
            raise self.error
        return self.reply

    async def samples(
        self, *, state: types_pb2.SampleState | None, after: str, limit: int
    ) -> buffer_pb2.ListSamplesReply:
        """A page of the given records."""
        if self.error:
            raise self.error
        found = [
            record for record in self.records if state in (None, record.state) and record.sample_id > after
        ]
        following = found[limit - 1].sample_id if len(found) > limit else ""
        return buffer_pb2.ListSamplesReply(samples=found[:limit], next=following)

    async def events(self, *, after: str, limit: int, newest_first: bool) -> buffer_pb2.ListEventsReply:
        """A page of the given events."""
        if self.error:
            raise self.error
        numbered = list(enumerate(self.run_events, start=1))
        if newest_first:
            numbered = [each for each in reversed(numbered) if not after or each[0] < int(after)]
        else:
            numbered = [each for each in numbered if each[0] > int(after or 0)]
        following = str(numbered[limit - 1][0]) if len(numbered) > limit else ""
        return buffer_pb2.ListEventsReply(events=[event for _, event in numbered[:limit]], next=following)

    async def steps(self, *, after: int, limit: int) -> Sequence[StepRecord]:
        """The last of the given records."""
        found = [record for record in self.step_records if int(str(record.get("step", 0))) > after]
        return found[-limit:]

    async def series(self, query: SeriesQuery) -> Series:
        """Of the given records."""
        table = StepTable()
        for record in self.step_records:
            table.put(int(str(record.get("step", 0))), record)
        return make_series(table, query)

    async def judge(self, *, limit: int) -> Sequence[JudgeRecord]:
        """The last of the given records."""
        return self.judge_records[-limit:]


@dataclass(slots=True, kw_only=True)
class MemoryPods:
    """Pods that say what they were told to."""

    answers: list[PodAnswer] = field(default_factory=list)

    async def ask(self) -> Sequence[PodAnswer]:
        """The given answers."""
        return self.answers
