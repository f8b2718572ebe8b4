"""A work queue on a Redis stream with a consumer group.

Commands of Redis 7.0 / Valkey 8 only; never MAXLEN, XTRIM or XDEL of unread work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from forklight_core.errors import BusyError, UnavailableError
from forklight_core.queues import scripts
from forklight_core.queues.keys import BODY, WORKERS
from forklight_core.queues.port import Lease, Leased, QueueStats

CONNECT_TIMEOUT_S = 5.0
REPLY_TIMEOUT_S = 10.0
LONGEST_BLOCK_S = 0.5
NO_LIMIT = 2**31
PASSING = ("MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN")
"""Answers of a server whose disk is full or which is failing over."""

Result = TypeVar("Result")


def connect_redis(url: str) -> Redis:
    """A client of protocol 2 (one reply shape everywhere) with timeouts; retries a lost connection once."""
    return Redis.from_url(
        url,
        protocol=2,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_timeout=REPLY_TIMEOUT_S,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=0.2, base=0.02), retries=1),
        retry_on_error=[RedisConnectionError],
    )


async def guard_redis(call: Callable[[], Awaitable[Result]], *, what: str) -> Result:
    """Run a call on Redis; what goes wrong becomes an error of our tree."""
    try:
        return await call()
    except (RedisError, OSError) as error:
        found = redis_error(error, what=what)
        if found is error:
            raise
        raise found from error


def redis_error(error: Exception, *, what: str) -> Exception:
    """An error of our tree for what the server or the way to it refuses; anything else stays what it is."""
    if isinstance(error, AuthenticationError | NoPermissionError):
        return UnavailableError(
            f"Redis refuses this service while it should {what}: {error} Mend user and password in "
            f"FORKLIGHT_REDIS_URL and start it again, or let that user do it; nothing is lost meanwhile"
        )
    if isinstance(error, RedisConnectionError | RedisTimeoutError | BusyLoadingError | OSError):
        return UnavailableError(f"Redis does not answer while it should {what}: {error}")
    if isinstance(error, OutOfMemoryError):
        return BusyError(f"Redis is full while it should {what}: raise its maxmemory or lower the credit")
    is_passing = isinstance(error, ReadOnlyError) or str(error).startswith(PASSING)
    if isinstance(error, ResponseError) and is_passing:
        return UnavailableError(f"Redis cannot {what} right now: {error}")
    return error


class RedisWorkQueue:
    """One stream, one consumer group."""

    def __init__(self, redis: Redis, stream: str, *, lease_s: float, max_deliveries: int = NO_LIMIT) -> None:
        self._redis = redis
        self._stream = stream
        self._max_deliveries = max_deliveries
        self._lease_ms = max(1, int(lease_s * 1000))
        self._reclaim = redis.register_script(scripts.RECLAIM)
        self._heartbeat = redis.register_script(scripts.HEARTBEAT)
        self._release = redis.register_script(scripts.RELEASE)
        self._settle = redis.register_script(scripts.SETTLE)

    async def put(self, body: bytes) -> str:
        entry_id = await self._guard(lambda: self._redis.xadd(self._stream, {BODY: body}), "put")
        return cast("bytes", entry_id).decode()

    async def take(self, consumer: str, *, wait_s: float, max_items: int) -> list[Leased]:
        end = time.monotonic() + wait_s
        while True:
            taken = await self._take_over(consumer, max_items)
            if not taken:
                taken = await self._take_new(consumer, max_items, max(0.0, end - time.monotonic()))
            if taken or time.monotonic() >= end:
                return taken

    async def _take_over(self, consumer: str, max_items: int) -> list[Leased]:
        arguments: list[str | int] = [WORKERS, consumer, self._lease_ms, max_items, self._max_deliveries]
        reply = await self._on_group(lambda: self._reclaim(keys=[self._stream], args=arguments), "take over")
        return [_leased(entry_id, consumer, int(fence), body) for entry_id, body, fence in reply]

    async def _take_new(self, consumer: str, max_items: int, wait_s: float) -> list[Leased]:
        wait_ms = int(min(wait_s, LONGEST_BLOCK_S, self._lease_ms / 1000) * 1000)
        block_ms = wait_ms or None  # 0 would block for ever
        reply = await self._on_group(
            lambda: self._redis.xreadgroup(
                WORKERS, consumer, {self._stream: ">"}, count=max_items, block=block_ms
            ),
            "take",
        )
        return [
            _leased(entry_id, consumer, 1, fields[BODY])
            for _, entries in reply or []
            for entry_id, fields in entries
        ]

    async def heartbeat(self, leases: Sequence[Lease]) -> list[Lease]:
        if not leases:
            return []
        arguments: list[str | int] = [WORKERS]
        for lease in leases:
            arguments += [lease.entry_id, lease.consumer, lease.fence]
        kept = await self._on_group(
            lambda: self._heartbeat(keys=[self._stream], args=arguments), "renew leases"
        )
        return [lease for lease, ours in zip(leases, kept, strict=True) if ours]

    async def release(self, lease: Lease) -> bool:
        return await self._run_on_lease(self._release, lease, "release")

    async def settle(self, lease: Lease) -> bool:
        return await self._run_on_lease(self._settle, lease, "settle")

    async def stats(self) -> QueueStats:
        stats: QueueStats = await self._on_group(self._read_stats, "count")
        return stats

    async def _read_stats(self) -> QueueStats:
        length = int(await self._redis.xlen(self._stream))
        pending = await self._redis.xpending(self._stream, WORKERS)
        first = await self._redis.xrange(self._stream, count=1)
        oldest = time.time() - int(cast("bytes", first[0][0]).split(b"-")[0]) / 1000 if first else 0.0
        leased = int(pending["pending"])
        return QueueStats(
            num_waiting=max(0, length - leased),
            num_leased=leased,
            oldest_age_s=max(0.0, oldest),
            holders={each["name"].decode(): int(each["pending"]) for each in pending["consumers"]},
        )

    async def _run_on_lease(self, script: Callable[..., Awaitable[Any]], lease: Lease, what: str) -> bool:
        arguments = [WORKERS, lease.entry_id, lease.consumer, lease.fence]
        return bool(await self._on_group(lambda: script(keys=[self._stream], args=arguments), what))

    async def _on_group(self, call: Callable[[], Awaitable[Any]], what: str) -> Any:
        """Run a call; make the consumer group when it is not there (a fresh or an emptied server)."""
        try:
            return await self._guard(call, what)
        except ResponseError as error:
            if "NOGROUP" not in str(error) and "no such key" not in str(error):
                raise
        await self._guard(lambda: create_group(self._redis, self._stream), "create the group")
        return await self._guard(call, what)

    async def _guard(self, call: Callable[[], Awaitable[Any]], what: str) -> Any:
        return await guard_redis(call, what=f"{what} on {self._stream}")


async def create_group(redis: Redis, stream: str) -> None:
    """Make the stream and its consumer group unless they exist."""
    try:
        await redis.xgroup_create(stream, WORKERS, id="0", mkstream=True)
    except ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


def _leased(entry_id: bytes, consumer: str, fence: int, body: bytes) -> Leased:
    return Leased(lease=Lease(entry_id=entry_id.decode(), consumer=consumer, fence=fence), body=body)


async def wait_for_redis(redis: Redis, *, deadline_s: float) -> None:
    """Return when the server answers; UnavailableError when it does not in time."""
    end = time.monotonic() + deadline_s
    while True:
        try:
            await redis.ping()
            return
        except (RedisError, OSError) as error:
            if time.monotonic() > end:
                raise UnavailableError(f"Redis does not answer within {deadline_s:g} s: {error}") from error
        await asyncio.sleep(0.1)
