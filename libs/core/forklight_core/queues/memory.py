"""A work queue in this process's memory, with the manners of the Redis one. For tests."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from forklight_core.queues.port import Lease, Leased, QueueStats

POLL_S = 0.005


@dataclass(slots=True)
class _Entry:
    body: bytes
    put_at: float
    consumer: str = ""
    deliveries: int = 0
    renewed_at: float = 0.0


class MemoryWorkQueue:
    """Entries in order; a lease expires `lease_s` after its last heartbeat."""

    def __init__(self, *, lease_s: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries: dict[str, _Entry] = {}
        self._lease_s = lease_s
        self._clock = clock
        self._count = 0

    async def put(self, body: bytes) -> str:
        self._count += 1
        entry_id = f"{self._count}-0"
        self._entries[entry_id] = _Entry(body=body, put_at=self._clock())
        return entry_id

    async def take(self, consumer: str, *, wait_s: float, max_items: int) -> list[Leased]:
        end = time.monotonic() + wait_s
        while True:
            taken = self._take_now(consumer, max_items)
            if taken or time.monotonic() >= end:
                return taken
            await asyncio.sleep(POLL_S)

    def _take_now(self, consumer: str, max_items: int) -> list[Leased]:
        now = self._clock()
        free = [
            (entry_id, entry)
            for entry_id, entry in self._entries.items()
            if not entry.consumer or now - entry.renewed_at >= self._lease_s
        ]
        free.sort(key=lambda pair: not pair[1].deliveries)
        taken = []
        for entry_id, entry in free[:max_items]:
            entry.consumer, entry.renewed_at = consumer, now
            entry.deliveries += 1
            lease = Lease(entry_id=entry_id, consumer=consumer, fence=entry.deliveries)
            taken.append(Leased(lease=lease, body=entry.body))
        return taken

    async def heartbeat(self, leases: Sequence[Lease]) -> list[Lease]:
        ours = [lease for lease in leases if self._owned(lease)]
        for lease in ours:
            self._entries[lease.entry_id].renewed_at = self._clock()
        return ours

    async def release(self, lease: Lease) -> bool:
        owned = self._owned(lease)
        if owned:
            self._entries[lease.entry_id].consumer = ""
        return owned

    async def settle(self, lease: Lease) -> bool:
        owned = self._owned(lease)
        if owned:
            del self._entries[lease.entry_id]
        return owned

    async def stats(self) -> QueueStats:
        now = self._clock()
        holders = Counter(entry.consumer for entry in self._entries.values() if entry.consumer)
        leased = holders.total()
        oldest = max((now - entry.put_at for entry in self._entries.values()), default=0.0)
        return QueueStats(
            num_waiting=len(self._entries) - leased, num_leased=leased, oldest_age_s=oldest, holders=holders
        )

    def _owned(self, lease: Lease) -> bool:
        entry = self._entries.get(lease.entry_id)
        return entry is not None and (entry.consumer, entry.deliveries) == (lease.consumer, lease.fence)
