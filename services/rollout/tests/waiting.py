"""Waiting in tests: for a condition, and for a worker to end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from forklight_rollout.generation.engine_thread import EngineThread
from forklight_rollout.worker import Worker

DEADLINE_S = 30.0


async def eventually(condition: Callable[[], bool]) -> None:
    """Return once it holds."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def at_work(assembled: tuple[EngineThread, Worker], stop: asyncio.Event) -> AsyncIterator[Worker]:
    """A worker that runs in the block, and drains at its end."""
    thread, worker = assembled
    task = asyncio.create_task(worker.run(stop))
    try:
        yield worker
    finally:
        stop.set()
        await task
        await thread.close()
