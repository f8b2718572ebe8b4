"""Back-off with jitter, bounded by a deadline. Only for errors that may go away by themselves."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from forklight_core.errors import BusyError, DeadlineError, ForklightError, UnavailableError

TRANSIENT: tuple[type[ForklightError], ...] = (UnavailableError, DeadlineError, BusyError)
FIRST_DELAY_S = 0.05
LONGEST_DELAY_S = 2.0

Result = TypeVar("Result")


def backoff_delays() -> Iterator[float]:
    """Doubling delays with jitter, without end."""
    delay = FIRST_DELAY_S
    while True:
        yield delay * random.uniform(0.5, 1.0)
        delay = min(delay * 2, LONGEST_DELAY_S)


async def retry_async(
    call: Callable[[], Awaitable[Result]],
    *,
    deadline_s: float,
    on: tuple[type[ForklightError], ...] = TRANSIENT,
) -> Result:
    """Call until it succeeds, fails for good, or the deadline is over; then the last error is raised."""
    end = time.monotonic() + deadline_s
    for delay in backoff_delays():
        try:
            return await call()
        except on:
            if time.monotonic() + delay > end:
                raise
        await asyncio.sleep(delay)
    raise AssertionError("backoff_delays never ends")


def retry_sync(
    call: Callable[[], Result],
    *,
    deadline_s: float,
    on: tuple[type[ForklightError], ...] = TRANSIENT,
    wait: Callable[[float], object] = time.sleep,
) -> Result:
    """`retry_async` for threads; `wait` may be an event's wait."""
    end = time.monotonic() + deadline_s
    for delay in backoff_delays():
        try:
            return call()
        except on:
            if time.monotonic() + delay > end:
                raise
        wait(delay)
    raise AssertionError("backoff_delays never ends")
