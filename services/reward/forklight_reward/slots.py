"""Bounded lines: so many jobs at once, so many in front of them, and an honest answer to the rest.

Who cannot be served before the deadline is told so at once, and when it is worth coming back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from forklight_core.errors import BusyError

Result = TypeVar("Result")
MAX_WAITING = 1024
SHORTEST_HINT_S = 0.05
LONGEST_HINT_S = 5.0
"""A longer one would keep callers away after the line is empty."""
KEPT = 0.9
"""Of the running mean of how long a job holds its place, at each new one."""


class Line:
    """`num_places` jobs run, up to `max_waiting` wait, more are refused."""

    def __init__(self, num_places: int, *, name: str, max_waiting: int = MAX_WAITING) -> None:
        self.num_places, self.max_waiting = num_places, max_waiting
        self.num_waiting = self.num_running = 0
        self._name = name
        self._mean_s: float | None = None
        self._semaphore = asyncio.Semaphore(num_places)

    @property
    def num_room(self) -> int:
        """How many more may come in."""
        return self.num_places + self.max_waiting - self.num_running - self.num_waiting

    @property
    def has_room(self) -> bool:
        """Whether one more may come in."""
        return self.num_room > 0

    @property
    def expected_wait_s(self) -> float:
        """How long who comes now will wait, by what jobs took before; 0 while nobody knows."""
        ahead = self.num_running + self.num_waiting + 1 - self.num_places
        return 0.0 if ahead <= 0 or self._mean_s is None else self._mean_s * ahead / self.num_places

    def busy(self, why: str) -> BusyError:
        """The refusal, with a hint when to come back."""
        hint = min(LONGEST_HINT_S, max(SHORTEST_HINT_S, self.expected_wait_s))
        return BusyError(f"{self._name}: {why}; try again in {hint:.2f} s or start more", retry_after_s=hint)

    @asynccontextmanager
    async def hold(self, wait_s: float | None = None) -> AsyncIterator[None]:
        """A place, within `wait_s`. BusyError when the line is full, or the wait would be too long."""
        if not self.has_room:
            raise self.busy(f"{self.num_running} run and {self.num_waiting} jobs wait already")
        if wait_s is not None and self.expected_wait_s > wait_s:
            raise self.busy(f"the wait is about {self.expected_wait_s:.1f} s, the caller has {wait_s:.1f} s")
        self.num_waiting += 1
        try:
            async with asyncio.timeout(wait_s if wait_s is None else max(0.0, wait_s)):
                await self._semaphore.acquire()
        except TimeoutError:
            raise self.busy(f"no slot of {self.num_places} was free within {wait_s:.1f} s") from None
        finally:
            self.num_waiting -= 1
        self.num_running += 1
        started = time.monotonic()
        try:
            yield
        finally:
            self.num_running -= 1
            self._learn(time.monotonic() - started)
            self._semaphore.release()

    def _learn(self, took_s: float) -> None:
        self._mean_s = took_s if self._mean_s is None else KEPT * self._mean_s + (1 - KEPT) * took_s


class Slots(Line):
    """A line whose jobs block: each runs in a thread of its own pool."""

    def __init__(self, num_slots: int, *, name: str, max_waiting: int = MAX_WAITING) -> None:
        super().__init__(num_slots, name=name, max_waiting=max_waiting)
        self.num_slots = num_slots
        # As many threads as slots: a cancelled call frees its slot at once, its thread when the job is over.
        self._threads = ThreadPoolExecutor(num_slots, thread_name_prefix=name)

    def most_but_one(self, name: str) -> Line:
        """A line for long jobs: while they all run one slot is left to the others, if there are two."""
        return Line(max(1, self.num_slots - 1), name=name)

    @asynccontextmanager
    async def hold(self, wait_s: float | None = None, behind: Line | None = None) -> AsyncIterator[None]:
        """A slot; first a place in the line `behind` which its kind of job waits."""
        async with AsyncExitStack() as held:
            if behind is not None:
                await held.enter_async_context(behind.hold(wait_s))
            await held.enter_async_context(super().hold(wait_s))
            yield

    async def run(self, job: Callable[[], Result]) -> Result:
        """Run a blocking job while holding a slot."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, job)

    def close(self) -> None:
        """Let running jobs finish, start no more."""
        self._threads.shutdown(wait=True, cancel_futures=True)
