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


def delay_after(error: ForklightError, delay_s: float) -> float:
    """The pause before the next call: what a busy peer asked for, with jitter, if that is longer."""
    hint = error.retry_after_s if isinstance(error, BusyError) else None
    return delay_s if hint is None else max(delay_s, hint * random.uniform(1.0, 1.5))


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
        except on as error:
            pause = delay_after(error, delay)
            if time.monotonic() + pause > end:
                raise
        await asyncio.sleep(pause)
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
        except on as error:
            pause = delay_after(error, delay)
            if time.monotonic() + pause > end:
                raise
        wait(pause)
    raise AssertionError("backoff_delays never ends")
