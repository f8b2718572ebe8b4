"""Names what is stuck: which sample, where, who holds it, since when."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from forklight.v1 import buffer_pb2
from forklight_buffer import metrics
from forklight_buffer.context import Context
from forklight_buffer.live import LiveGroup, LiveSample
from forklight_buffer.ports import Entries, QueueName
from forklight_buffer.states import State
from forklight_core import ids
from forklight_core.telemetry import gauge

log = logging.getLogger(__name__)

MOST_LISTED = 20
GROUPS_AT_ONCE = 32
"""Looked through on the server in one go. Long responses make all groups old, and reading each of them whole
would take the buffer a core at some thousand."""


class Watchdog:
    """Looks at groups opened longer ago than the run file allows a sample to stay where it is."""

    def __init__(self, context: Context, entries: Entries) -> None:
        self._context = context
        self._entries = entries
        self._named: set[str] = set()

    async def find_stuck(self) -> list[buffer_pb2.StuckSample]:
        """At most 20 samples that have not moved for too long, oldest groups first."""
        found = []
        async for group, sample in self._stuck():
            found.append(
                buffer_pb2.StuckSample(
                    sample_id=ids.sample_id(group.group_id, sample.index),
                    state=sample.state.wire,
                    since=sample.since,
                    where=await self._where(group, sample),
                )
            )
            if len(found) == MOST_LISTED:
                break
        return found

    async def _stuck(self) -> AsyncIterator[tuple[LiveGroup, LiveSample]]:
        before = self._context.clock() - self._context.run_file.buffer.watchdog_s
        live = self._context.live
        old = await live.live_groups(opened_before=before)
        for start in range(0, len(old), GROUPS_AT_ONCE):
            for group_id in await live.unmoved_groups(old[start : start + GROUPS_AT_ONCE], before):
                group = await live.read_group(group_id)
                for sample in group.samples if group is not None else ():
                    if group is not None and not sample.state.terminal and sample.since < before:
                        yield group, sample

    async def _where(self, group: LiveGroup, sample: LiveSample) -> str:
        if sample.state is State.QUEUED:
            return await self._in_queue(QueueName(group.queue), group.task_entry)
        if sample.state is State.GENERATED:
            return await self._in_queue(QueueName.SCORING, sample.scoring_entry)
        if sample.state is State.SCORED:
            waiting = sum(other.state in (State.QUEUED, State.GENERATED) for other in group.samples)
            return f"group {group.group_id}: waits for {waiting} other samples"
        if sample.state is State.LEASED:
            return f"batch of step {group.step}, held by the trainer"
        return "ready groups: no trainer asks for a batch, or too few groups are ready"

    async def _in_queue(self, queue: QueueName, entry_id: str) -> str:
        holder = await self._entries.holder(queue, entry_id)
        return f"queue {queue}, entry {entry_id}: " + (f"held by {holder}" if holder else "nobody takes it")

    async def watch(self) -> int:
        """One pass: log each stuck sample once."""
        stuck = await self.find_stuck()
        gauge(metrics.STUCK).set(len(stuck))
        for sample in stuck:
            if sample.sample_id not in self._named:
                log.warning(
                    "sample is stuck",
                    extra={"sample_id": sample.sample_id, "since": sample.since, "where": sample.where},
                )
        self._named = {sample.sample_id for sample in stuck}
        return len(stuck)
