"""The Redis queue and its memory fake obey the same contract."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from forklight_core.errors import UnavailableError
from forklight_core.queues import Lease, MemoryWorkQueue, RedisWorkQueue, RunKeys, WorkQueue, connect_redis
from forklight_core.redis_server import EmbeddedRedis, start_embedded

LEASE_S = 0.3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    running = start_embedded(tmp_path_factory.mktemp("redis"))
    yield running
    running.stop()


@pytest.fixture
async def redis(server: EmbeddedRedis) -> AsyncIterator[Redis]:
    client = connect_redis(server.url)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture(params=["redis", "memory"])
def queue(request: pytest.FixtureRequest, redis: Redis) -> WorkQueue:
    if request.param == "memory":
        return MemoryWorkQueue(lease_s=LEASE_S)
    return RedisWorkQueue(redis, RunKeys("run-1").tasks, lease_s=LEASE_S)


async def test_entries_come_once_and_in_order_when_nobody_fails(queue: WorkQueue) -> None:
    for number in range(5):
        await queue.put(b"%d" % number)
    first = await queue.take("a", wait_s=1, max_items=3)
    second = await queue.take("b", wait_s=1, max_items=3)
    assert [item.body for item in first + second] == [b"0", b"1", b"2", b"3", b"4"]
    assert {item.lease.fence for item in first + second} == {1}
    assert await queue.take("a", wait_s=0.01, max_items=1) == []


async def test_take_waits_for_an_entry_when_the_queue_is_empty(queue: WorkQueue) -> None:
    waiting = asyncio.create_task(queue.take("a", wait_s=5, max_items=1))
    await asyncio.sleep(0)
    await queue.put(b"late")
    assert [item.body for item in await waiting] == [b"late"]


async def test_expired_lease_goes_to_another_with_a_higher_fence_and_the_old_holder_is_refused(
    queue: WorkQueue,
) -> None:
    await queue.put(b"work")
    (old,) = await queue.take("a", wait_s=1, max_items=1)
    (new,) = await queue.take("b", wait_s=5, max_items=1)
    assert (new.body, new.lease.fence) == (b"work", old.lease.fence + 1)
    assert await queue.heartbeat([old.lease, new.lease]) == [new.lease]
    assert not await queue.settle(old.lease)
    assert not await queue.release(old.lease)
    assert await queue.settle(new.lease)
    assert not await queue.settle(new.lease)


async def test_same_holder_after_redelivery_is_fenced_by_its_older_lease(queue: WorkQueue) -> None:
    await queue.put(b"work")
    (old,) = await queue.take("a", wait_s=1, max_items=1)
    (new,) = await queue.take("a", wait_s=5, max_items=1)
    assert not await queue.settle(old.lease)
    assert await queue.settle(new.lease)


async def test_heartbeat_keeps_a_lease_past_its_length(queue: WorkQueue) -> None:
    await queue.put(b"long")
    (item,) = await queue.take("a", wait_s=1, max_items=1)
    end = time.monotonic() + 3 * LEASE_S
    while time.monotonic() < end:
        assert await queue.heartbeat([item.lease]) == [item.lease]
        assert await queue.take("b", wait_s=0.01, max_items=1) == []
        await asyncio.sleep(LEASE_S / 6)
    assert await queue.settle(item.lease)


async def test_released_entry_is_taken_at_once_by_anyone(queue: WorkQueue) -> None:
    await queue.put(b"work")
    (item,) = await queue.take("a", wait_s=1, max_items=1)
    assert await queue.release(item.lease)
    started = time.monotonic()
    (again,) = await queue.take("b", wait_s=5, max_items=1)
    assert time.monotonic() - started < LEASE_S
    assert again.lease.fence == 2
    assert not await queue.settle(item.lease)


async def test_stats_count_waiting_and_leased(queue: WorkQueue) -> None:
    assert (await queue.stats()).num_waiting == 0
    for _ in range(3):
        await queue.put(b"x")
    await queue.take("a", wait_s=1, max_items=2)
    stats = await queue.stats()
    assert (stats.num_waiting, stats.num_leased, stats.holders) == (1, 2, {"a": 2})
    assert 0 <= stats.oldest_age_s < 60


async def test_unknown_lease_is_nobodys(queue: WorkQueue) -> None:
    nobody = Lease(entry_id="1-1", consumer="a", fence=1)
    await queue.put(b"x")
    await queue.take("a", wait_s=1, max_items=1)
    assert await queue.heartbeat([nobody]) == []
    assert not await queue.settle(nobody)


async def test_queue_says_unavailable_when_the_server_is_gone_and_works_when_it_is_back(
    tmp_path: Path,
) -> None:
    server = start_embedded(tmp_path)
    client = connect_redis(server.url)
    queue = RedisWorkQueue(client, "stream", lease_s=LEASE_S)
    try:
        await queue.put(b"kept")
        server.process.kill()
        server.process.wait()
        with pytest.raises(UnavailableError, match="put"):
            await queue.put(b"lost")
        server.restart()
        (item,) = await queue.take("a", wait_s=5, max_items=1)
        assert item.body == b"kept"
    finally:
        await client.aclose()
        server.stop()


async def test_entry_is_not_taken_again_when_it_was_delivered_as_often_as_allowed(redis: Redis) -> None:
    queue = RedisWorkQueue(redis, "limited", lease_s=LEASE_S, max_deliveries=2)
    await queue.put(b"poison")
    for fence in (1, 2):
        (item,) = await queue.take("a", wait_s=5, max_items=1)
        assert item.lease.fence == fence
        assert await queue.release(item.lease)
    assert await queue.take("a", wait_s=0.05, max_items=1) == []
    assert (await queue.stats()).num_leased == 1
