"""The work queues as the buffer sees them: who holds an entry, how often it came, what is in it."""

from __future__ import annotations

from typing import Any, cast

from redis.asyncio import Redis

from forklight_buffer.ports import OverdueEntry, QueueName
from forklight_core.queues import BODY, WORKERS, QueueStats, RedisWorkQueue, RunKeys, guard_redis


class RedisEntries:
    """Implements `Entries`; it only reads."""

    def __init__(self, redis: Redis, keys: RunKeys, *, lease_s: float) -> None:
        self._redis = redis
        self._streams = {
            QueueName.TASKS: keys.tasks,
            QueueName.EVALUATE: keys.evaluate,
            QueueName.SCORING: keys.scoring,
        }
        self._queues = {
            name: RedisWorkQueue(redis, stream, lease_s=lease_s) for name, stream in self._streams.items()
        }

    async def stats(self, queue: QueueName) -> QueueStats:
        return await self._queues[queue].stats()

    async def holder(self, queue: QueueName, entry_id: str) -> str:
        held = await self._pending(queue, entry_id, entry_id, 1, idle_ms=0)
        if not held:
            return ""
        return f"{held[0]['consumer'].decode()} (delivery {held[0]['times_delivered']})"

    async def overdue(
        self, queue: QueueName, *, idle_s: float, num_deliveries: int, limit: int
    ) -> list[OverdueEntry]:
        found = await self._pending(queue, "-", "+", limit, idle_ms=int(idle_s * 1000))
        entries = []
        for item in found:
            if item["times_delivered"] >= num_deliveries:
                entry_id = item["message_id"].decode()
                body = await self._body(queue, entry_id)
                entries.append(
                    OverdueEntry(entry_id=entry_id, num_deliveries=item["times_delivered"], body=body)
                )
        return entries

    async def _pending(
        self, queue: QueueName, low: str, high: str, count: int, *, idle_ms: int
    ) -> list[dict[str, Any]]:
        reply = await guard_redis(
            lambda: self._redis.xpending_range(
                self._streams[queue], WORKERS, min=low, max=high, count=count, idle=idle_ms or None
            ),
            what=f"list who holds entries of {queue}",
        )
        return cast("list[dict[str, Any]]", reply)

    async def _body(self, queue: QueueName, entry_id: str) -> bytes:
        found = await guard_redis(
            lambda: self._redis.xrange(self._streams[queue], min=entry_id, max=entry_id),
            what=f"read an entry of {queue}",
        )
        fields = cast("dict[bytes, bytes]", found[0][1]) if found else {}
        return fields.get(BODY, b"")
