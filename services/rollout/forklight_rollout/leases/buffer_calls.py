"""The buffer's door with patience: a call is repeated while the group is ours and the deadline not over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from forklight.v1 import types_pb2
from forklight_core.errors import BusyError, DeadlineError, UnavailableError
from forklight_core.retry import backoff_delays
from forklight_rollout.leases.held_groups import HeldGroup
from forklight_rollout.ports import BufferDoor, PendingSample, Saved, SegmentRef, SubmitOutcome
from forklight_rollout.problems import Area, Problems

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferCalls:
    """Every call carries the lease the group has at that moment; FencedError once the group was given up."""

    door: BufferDoor
    problems: Problems
    deadline_s: float

    async def pending_samples(self, group: HeldGroup) -> list[int]:
        """Indices of the samples that are still missing."""
        return [pending.index for pending in await self.pending_responses(group)]

    async def pending_responses(self, group: HeldGroup) -> list[PendingSample]:
        """The samples that are still missing, and what is saved of them."""
        return await self._call(lambda: self.door.pending_samples(group.group_id, group.lease), group)

    async def save_segment(self, sample_id: str, segment: SegmentRef, group: HeldGroup) -> Saved:
        """Append a segment to what is saved of a response."""
        return await self._call(lambda: self.door.save_segment(sample_id, segment, group.lease), group)

    async def drop_segments(self, sample_id: str, from_start: int, group: HeldGroup) -> Saved:
        """Have segments forgotten that cannot be gone on from."""
        return await self._call(lambda: self.door.drop_segments(sample_id, from_start, group.lease), group)

    async def submit(self, build: Callable[[], types_pb2.Trajectory], group: HeldGroup) -> SubmitOutcome:
        """Hand over a trajectory, built anew for each try: the lease may have come back under a new fence."""
        return await self._call(lambda: self.door.submit(build(), group.lease), group)

    async def _call(self, call: Callable[[], Awaitable[Result]], group: HeldGroup) -> Result:
        loop = asyncio.get_running_loop()
        end = loop.time() + self.deadline_s
        for delay in backoff_delays():
            try:
                result = await call()
            except (UnavailableError, DeadlineError, BusyError) as error:
                self.problems.report(Area.BUFFER, str(error))
                if loop.time() + delay > end:
                    raise
            else:
                self.problems.clear(Area.BUFFER)
                group.require_held()
                return result
            group.require_held()
            await asyncio.sleep(delay)
        raise AssertionError("backoff_delays never ends")
