"""A pod that takes itself out: the guard that sees throughput collapse, and the loop that acts on it.

       .-- as slow as nothing it has known, for collapse_s --.
FIT ---'                                                      '--> OUT: no work, not serving
 ^                                                                  |  pause over (doubles each time),
 '-- fast again, for collapse_s --  TRIAL: works  <-----------------'  or what still runs is fast again
                                      '-- still slow, for collapse_s --> OUT
"""

from __future__ import annotations

import asyncio
import logging
import os
import statistics
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from forklight_core.errors import UnavailableError
from forklight_core.lifecycle import EXIT_FAILED
from forklight_rollout.generation.engine_thread import EngineReading, EngineThread
from forklight_rollout.problems import Area, Problems

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
ENGINE_ANSWER_S = 60.0
"""An engine that does not come to the end of its step for so long, beside a collapse, is hung."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollapseRules:
    """When throughput counts as collapsed, and when as recovered."""

    share: float = 0.2  # of the usual rate; 0: never
    collapse_s: float = 120.0
    recovered_share: float = 0.5
    window_s: float = 10.0  # a rate is over so long: steps come in bursts
    num_readings: int = 1800  # the usual rate is of the last so many, one a second while something runs
    min_readings: int = 60  # less than that at a comparable batch is not yet a usual rate
    first_pause_s: float = 60.0
    longest_pause_s: float = 900.0


class Fit(StrEnum):
    """What the guard thinks of the pod."""

    FIT = "fit"
    OUT = "out"
    TRIAL = "trial"


@dataclass(frozen=True, slots=True)
class _Rate:
    """Decoding over the last window."""

    batch: float  # sequences that ran, on average
    tokens_per_s: float  # of one of them


class CollapseGuard:
    """Compares the tokens a second of a sequence with this pod's own, at half to twice the batch."""

    def __init__(self, rules: CollapseRules, clock: Callable[[], float] = time.monotonic) -> None:
        self.state = Fit.FIT
        self.reason = ""
        self._rules, self._clock = rules, clock
        self._window: deque[tuple[float, int, int]] = deque()  # when, tokens since start, running
        self._history: deque[_Rate] = deque(maxlen=rules.num_readings)
        self._slow_s = self._fast_s = self._retry_at = 0.0
        self._pause_s = rules.first_pause_s

    def note(self, reading: EngineReading) -> None:
        """Look at the engine; call it about once a second."""
        now = self._clock()
        elapsed = now - self._window[-1][0] if self._window else 0.0
        rate = self._measure(now, reading)
        usual = self._usual(rate) if rate is not None else None
        if rate is not None and usual is not None:
            self._count(rate.tokens_per_s / usual if usual else 1.0, elapsed)
        if self.state is Fit.FIT and rate is not None and not self._slow_s:
            self._history.append(rate)  # slow readings stay out: a collapse must not become the usual
        self._decide(now, rate, usual)

    def _measure(self, now: float, reading: EngineReading) -> _Rate | None:
        """The rate over the window; None when nothing runs, or has not for long enough to say."""
        window = self._window
        if not reading.num_running:
            window.clear()
            return None
        window.append((now, reading.num_tokens, reading.num_running))
        while len(window) > 1 and window[1][0] <= now - self._rules.window_s:
            window.popleft()
        began, tokens, _ = window[0]
        seconds = now - began
        busy_s = sum(
            (later[0] - earlier[0]) * earlier[2]
            for earlier, later in zip(window, list(window)[1:], strict=False)
        )
        if seconds < self._rules.window_s / 2:
            return None
        return _Rate(busy_s / seconds, (reading.num_tokens - tokens) / busy_s)

    def _usual(self, rate: _Rate) -> float | None:
        """Median of what was seen at comparable batches; None when that is too little."""
        seen = [past.tokens_per_s for past in self._history if rate.batch / 2 <= past.batch <= rate.batch * 2]
        return statistics.median(seen) if len(seen) >= self._rules.min_readings else None

    def _count(self, share: float, elapsed: float) -> None:
        """Seconds in a row of slow and of fast; time in which nothing runs counts as neither."""
        is_slow = share < (self._rules.share if self.state is Fit.FIT else self._rules.recovered_share)
        is_fast = share >= self._rules.recovered_share
        self._slow_s = self._slow_s + elapsed if is_slow else 0.0
        self._fast_s = self._fast_s + elapsed if is_fast else 0.0

    def _decide(self, now: float, rate: _Rate | None, usual: float | None) -> None:
        rules = self._rules
        if self.state is Fit.OUT:
            if now >= self._retry_at or self._fast_s >= rules.window_s:
                self._enter(Fit.TRIAL)
        elif self._slow_s >= rules.collapse_s and rate is not None and usual is not None:
            self._retry_at = now + self._pause_s
            self.reason = (
                f"for {self._slow_s:.0f} s a sequence got {rate.tokens_per_s:.3g} tokens/s at a batch of "
                f"{rate.batch:.0f}, usual here are {usual:.3g}; no work is taken for {self._pause_s:.0f} s. "
                "Look at this machine's GPU (clocks, temperature, errors, neighbours)"
            )
            self._pause_s = min(self._pause_s * 2, rules.longest_pause_s)
            self._enter(Fit.OUT)
        elif self.state is Fit.TRIAL and self._fast_s >= rules.collapse_s:
            self._pause_s = rules.first_pause_s
            self._enter(Fit.FIT)

    def _enter(self, state: Fit) -> None:
        log.warning("throughput guard", extra={"state": state.value, "before": self.state.value})
        self.state = state
        self._slow_s = self._fast_s = 0.0
        if state is not Fit.OUT:
            self.reason = ""


class Workplace(Protocol):
    """What takes work and can stop taking it: the worker."""

    async def stand_aside(self) -> None:
        """Take nothing more and hand back what is held, until `resume`."""
        ...

    def resume(self) -> None:
        """Take work again."""
        ...

    async def let_go(self) -> None:
        """Hand every lease back without asking the engine for anything."""
        ...


def end_process() -> None:
    """Leave at once: a thread inside a hung GPU call never ends, and an orderly end would wait for it."""
    logging.shutdown()
    os._exit(EXIT_FAILED)


class Fitness:
    """Keeps health and worker in step with the problems that forbid work. One a pod."""

    def __init__(
        self,
        thread: EngineThread,
        worker: Workplace,
        *,
        problems: Problems,
        guard: CollapseGuard,
        set_serving: Callable[[bool], Awaitable[None]],
    ) -> None:
        self.is_out = False
        self.end_process: Callable[[], None] = end_process
        self._thread, self._worker = thread, worker
        self._problems, self._guard = problems, guard
        self._set_serving = set_serving

    async def run(self) -> None:
        """Look every second, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Note how the engine does, and stand aside or come back as it requires."""
        self._guard.note(self._thread.reading)
        if self._guard.reason:
            self._problems.report(Area.THROUGHPUT, self._guard.reason)
        else:
            self._problems.clear(Area.THROUGHPUT)
        why = self._problems.out_of_service()
        if bool(why) == self.is_out:
            return
        self.is_out = bool(why)
        await self._set_serving(not why)
        if why:
            await self._stand_aside(why)
        else:
            log.info("back in service")
            self._worker.resume()

    async def _stand_aside(self, why: str) -> None:
        """The worker needs the engine to let go of its samples, so the engine is watched meanwhile."""
        log.error("out of service", extra={"reason": why})
        leaving = asyncio.create_task(self._worker.stand_aside())
        try:
            while not leaving.done():
                async with asyncio.timeout(ENGINE_ANSWER_S):
                    await self._thread.call(lambda generator: generator.num_running)
                await asyncio.wait([leaving], timeout=LOOK_EVERY_S)
            await leaving
        except TimeoutError:
            log.critical("the engine is hung; the pod ends", extra={"waited_s": ENGINE_ANSWER_S})
            leaving.cancel()
            await self._worker.let_go()
            await asyncio.wait([leaving])
            self.end_process()
        except UnavailableError as error:
            # The engine has failed: the worker lets go and ends the pod.
            log.warning("cannot stand aside", extra={"reason": str(error)})
            leaving.cancel()
