"""A bounded number of blocking jobs at once, a bounded line in front of them, each in a thread of its own
pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from forklight_core.errors import BusyError

Result = TypeVar("Result")
MAX_WAITING = 1024


class Slots:
    """`num_slots` jobs run, up to `max_waiting` wait, more are refused."""

    def __init__(self, num_slots: int, *, name: str, max_waiting: int = MAX_WAITING) -> None:
        self.num_slots = num_slots
        self._name = name
        self._max_waiting = max_waiting
        self._num_waiting = 0
        self._semaphore = asyncio.Semaphore(num_slots)
        # As many threads as slots: a cancelled call frees its slot at once, its thread when the job is over.
        self._threads = ThreadPoolExecutor(num_slots, thread_name_prefix=name)

    @asynccontextmanager
    async def hold(self, wait_s: float) -> AsyncIterator[None]:
        """A slot. BusyError when the line is full or the wait too long."""
        if self._num_waiting >= self._max_waiting:
            raise BusyError(
                f"{self._name}: {self._num_waiting} jobs wait already; try later or start more workers"
            )
        self._num_waiting += 1
        try:
            async with asyncio.timeout(max(0.0, wait_s)):
                await self._semaphore.acquire()
        except TimeoutError:
            raise BusyError(
                f"{self._name}: no slot of {self.num_slots} was free within {wait_s:.1f} s"
            ) from None
        finally:
            self._num_waiting -= 1
        try:
            yield
        finally:
            self._semaphore.release()

    async def run(self, job: Callable[[], Result]) -> Result:
        """Run a blocking job while holding a slot."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, job)

    def close(self) -> None:
        """Let running jobs finish, start no more."""
        self._threads.shutdown(wait=True, cancel_futures=True)
