"""Work queues: port, Redis streams, memory; the keys services share."""

from forklight_core.queues.keys import BODY, WORKERS, RunKeys
from forklight_core.queues.memory import MemoryWorkQueue
from forklight_core.queues.port import Lease, Leased, QueueStats, WorkQueue
from forklight_core.queues.redis import (
    RedisWorkQueue,
    connect_redis,
    create_group,
    guard_redis,
    redis_error,
    wait_for_redis,
)
from forklight_core.queues.weights import read_weights

__all__ = [
    "BODY",
    "WORKERS",
    "Lease",
    "Leased",
    "MemoryWorkQueue",
    "QueueStats",
    "RedisWorkQueue",
    "RunKeys",
    "WorkQueue",
    "connect_redis",
    "create_group",
    "guard_redis",
    "read_weights",
    "redis_error",
    "wait_for_redis",
]
