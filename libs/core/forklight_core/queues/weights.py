"""How a pod learns of new weights: one key, written by the buffer when the trainer announces a version."""

from __future__ import annotations

from typing import cast

from redis.asyncio import Redis

from forklight.v1 import types_pb2
from forklight_core.queues.keys import RunKeys
from forklight_core.queues.redis import guard_redis
from forklight_core.wire import parse


async def read_weights(redis: Redis, keys: RunKeys) -> types_pb2.WeightsRef | None:
    """The newest announced weights; None before the first."""
    data = await guard_redis(lambda: redis.get(keys.weights), what="read the newest weights")
    return None if data is None else parse(types_pb2.WeightsRef, cast("bytes", data))
