"""What a pod's doors report: the rollout service's own clients, with a stopwatch, and a way to hang.

A stalled pod is one whose process lives and whose connections stay open, but that asks and answers nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from forklight.v1 import types_pb2
from forklight_core.errors import ForklightError
from forklight_core.queues import Lease, Leased, RedisWorkQueue
from forklight_rollout.adapters.buffer_rpc import RpcBuffer
from forklight_rollout.ports import PendingSample, Saved, SegmentRef, SubmitOutcome

Result = TypeVar("Result")
MOST_KEPT = 4000
"""Durations of one name that are kept of a second; beyond it they are only counted."""


@dataclass(slots=True)
class Tally:
    """What happened since it was read last. One a process, for the event loop's thread only."""

    durations: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    counts: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    """Leases that went to somebody else, by pod."""
    took: dict[str, float] = field(default_factory=dict)
    """When a pod took its first lease."""

    def note(self, name: str, seconds: float) -> None:
        """How long something took."""
        found = self.durations[name]
        if len(found) < MOST_KEPT:
            found.append(round(seconds, 5))
        self.counts[f"{name}.calls"] += 1

    def read(self) -> dict[str, Any]:
        """As plain data; begins anew."""
        said = {
            "durations": dict(self.durations),
            "counts": dict(self.counts),
            "lost": dict(self.lost),
            "took": self.took,
        }
        self.durations, self.counts, self.lost, self.took = defaultdict(list), Counter(), Counter(), {}
        return said


TALLY = Tally()
STALLED: set[str] = set()
"""Pods of this process that hang."""


async def hang_if_stalled(pods: Iterable[str]) -> None:
    """Never returns for a stalled pod."""
    if not STALLED.isdisjoint(pods):
        await asyncio.Event().wait()


async def measure(name: str, call: Awaitable[Result]) -> Result:
    """Await something and note how long it took, or what it failed with."""
    started = time.perf_counter()
    try:
        return await call
    except ForklightError as error:
        TALLY.counts[f"{name}.{type(error).__name__}"] += 1
        raise
    finally:
        TALLY.note(name, time.perf_counter() - started)


def age_of(entry_id: str) -> float:
    """Seconds since an entry was put into its queue, by the server's clock, which is this machine's."""
    return time.time() - int(entry_id.partition("-")[0]) / 1000


class MeasuredQueue(RedisWorkQueue):
    """The real queue."""

    async def take(self, consumer: str, *, wait_s: float, max_items: int) -> list[Leased]:
        await hang_if_stalled([consumer])
        found = await super().take(consumer, wait_s=wait_s, max_items=max_items)
        await hang_if_stalled([consumer])
        TALLY.counts["takes"] += 1
        for leased in found:
            if leased.lease.fence == 1:
                TALLY.note("queue_wait", age_of(leased.lease.entry_id))
            else:
                TALLY.counts["redelivered"] += 1
            TALLY.took.setdefault(consumer, time.time())
        return found

    async def heartbeat(self, leases: Sequence[Lease]) -> list[Lease]:
        if not leases:
            return []
        await hang_if_stalled(lease.consumer for lease in leases)
        kept = await measure("heartbeat", super().heartbeat(leases))
        held = set(kept)
        for lease in leases:
            if lease not in held and await self._was_lost(lease):
                TALLY.lost[lease.consumer] += 1
        return kept

    async def _was_lost(self, lease: Lease) -> bool:
        """Whether another pod has the entry; it is simply gone when its last sample was just accepted."""
        pending = await self._redis.xpending_range(
            self._stream, "workers", lease.entry_id, lease.entry_id, count=1
        )
        return bool(pending)


class MeasuredBuffer(RpcBuffer):
    """The real door."""

    async def pending_samples(self, group_id: str, lease: Lease) -> list[PendingSample]:
        await hang_if_stalled([lease.consumer])
        found = await measure("GetPendingSamples", super().pending_samples(group_id, lease))
        TALLY.counts["tokens_resumed"] += sum(each.num_saved_tokens for each in found)
        return found

    async def save_segment(self, sample_id: str, segment: SegmentRef, lease: Lease) -> Saved:
        await hang_if_stalled([lease.consumer])
        return await measure("SaveSegment", super().save_segment(sample_id, segment, lease))

    async def submit(self, trajectory: types_pb2.Trajectory, lease: Lease) -> SubmitOutcome:
        await hang_if_stalled([lease.consumer])
        outcome = await measure("SubmitTrajectories", super().submit(trajectory, lease))
        TALLY.counts[f"samples.{outcome.value}"] += 1
        if outcome is SubmitOutcome.ACCEPTED:
            TALLY.counts["tokens_accepted"] += trajectory.num_response_tokens
        return outcome
