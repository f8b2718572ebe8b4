"""Tries a call until it gives a score, within a number of tries and a deadline for each.

A failure never becomes 0.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice

from forklight_core.errors import BusyError, ForklightError, UnavailableError
from forklight_core.retry import TRANSIENT, backoff_delays, retry_async
from forklight_reward import metrics
from forklight_reward.ports import Outcome, Status

MAX_EVIDENCE = 500
LEAST_TIMEOUT_S = 0.1

logger = logging.getLogger(__name__)


Ask = Callable[[float, int], Awaitable[Outcome]]
"""One question to a worker, within so many seconds; they are counted: each goes to the next address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """How often, and how long each."""

    max_attempts: int
    timeout_s: float

    async def run(self, ask: Ask, left_s: float | None = None) -> tuple[Outcome, int]:
        """The first scored outcome, else the last failure; and how many tries were made.

        What cannot be done before the caller's deadline, `left_s` from now, is not begun.
        """
        end = None if left_s is None else time.monotonic() + left_s
        turns = count()
        outcome = failure("front", "no try was made: the caller's deadline is over")
        for number, delay in enumerate(islice(backoff_delays(), self.max_attempts), start=1):
            timeout_s = self.timeout_s if end is None else min(self.timeout_s, end - time.monotonic())
            if timeout_s < LEAST_TIMEOUT_S:
                return outcome, number - 1
            outcome, is_final = await self._try(ask, turns, timeout_s)
            if is_final or number == self.max_attempts:
                return outcome, number
            metrics.count_retry(outcome.status)
            await asyncio.sleep(delay)
        return outcome, self.max_attempts

    async def _try(self, ask: Ask, turns: Iterator[int], timeout_s: float) -> tuple[Outcome, bool]:
        """One try: an absent or busy worker is asked again until the try's deadline, so that it may
        restart.
        """
        deadline = time.monotonic() + timeout_s

        async def once() -> Outcome:
            return await ask(max(LEAST_TIMEOUT_S, deadline - time.monotonic()), next(turns))

        try:
            outcome = await retry_async(once, deadline_s=timeout_s, on=(UnavailableError, BusyError))
        except TRANSIENT as error:
            return failure("front", describe(error)), False
        except ForklightError as error:
            logger.warning(
                "sample cannot be scored", extra={"reason": str(error), "error_type": type(error).__name__}
            )
            return failure("front", describe(error)), True
        return outcome, outcome.is_scored


def failure(worker: str, evidence: str) -> Outcome:
    """An outcome without a score."""
    return Outcome(status=Status.INFRA_ERROR, parts={}, evidence=evidence[:MAX_EVIDENCE], worker=worker)


def describe(error: ForklightError) -> str:
    """What failed, for the verdict's evidence."""
    return f"{type(error).__name__}: {error}"
