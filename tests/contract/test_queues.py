"""Every queue the buffer puts work on is one that somebody takes from, under the same name."""

from __future__ import annotations

from forklight_buffer.keys import BufferKeys
from forklight_buffer.ports import QueueName as BufferQueue
from forklight_core.queues import RunKeys
from forklight_rollout.leases.two_queues import QueueName as PodQueue


def test_pods_and_rewards_together_serve_every_queue_of_the_buffer() -> None:
    assert {*map(str, PodQueue), "scoring"} == set(map(str, BufferQueue))


def test_every_queue_has_a_key_of_its_own_that_the_scripts_know() -> None:
    keys = RunKeys("run-1")
    names = {queue: getattr(keys, queue) for queue in BufferQueue}
    assert len(set(names.values())) == len(BufferQueue)
    assert set(names.values()) <= set(BufferKeys(keys).in_order())
