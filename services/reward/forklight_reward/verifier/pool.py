"""math-verify in killable processes, in two lanes, so that honest answers do not wait behind bombs.

    pair --quick lane: 0.4 s of CPU--> word
              '--not done--> slow lane: the whole limit, few processes of low priority--> word or LIMIT

A call that must be ended is the answer's fault; a worker that dies by itself is ours.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from dataclasses import dataclass

from forklight_core.errors import BusyError, ForklightError, UnavailableError
from forklight_reward.verifier.math_process import (
    CLOCK_LIMIT_S,
    START_LIMIT_S,
    CallLimits,
    MathWorker,
    Word,
)

RECYCLE_AFTER = 1000
QUICK_LIMITS = CallLimits(soft_s=0.4, hard_s=0.8)
SLOW_NICENESS = 5
MOST_SLOW = 32
"""Calls in or before the slow lane; more are refused, to be asked again."""

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class PoolStats:
    """What became of the workers since the pool was made."""

    num_started: int = 0
    num_killed: int = 0
    num_recycled: int = 0
    num_slow: int = 0
    """Calls that the quick lane has passed on."""


class Lane:
    """A fixed number of workers with the same limits, started when first needed. Thread-safe."""

    def __init__(
        self,
        num_processes: int,
        limits: CallLimits,
        stats: PoolStats,
        *,
        niceness: int = 0,
        recycle_after: int = RECYCLE_AFTER,
    ) -> None:
        self.limits = limits
        self._stats = stats
        self._niceness = niceness
        self._recycle_after = recycle_after
        self._closed = False
        self._lock = threading.Lock()
        self._idle: queue.LifoQueue[MathWorker | None] = queue.LifoQueue()
        self._num_processes = num_processes
        for _ in range(num_processes):
            self._idle.put(None)

    def compare(self, gold: str, answer: str, *, wait_s: float) -> Word:
        """What math-verify says. BusyError when no worker is free in time."""
        try:
            worker = self._idle.get(timeout=max(0.0, wait_s))
        except queue.Empty:
            raise BusyError(
                f"verifier: no math worker was free within {wait_s:.1f} s; raise reward.verifier_processes"
            ) from None
        try:
            if self._closed:
                raise UnavailableError("verifier: the pool of math workers is closed")
            if worker is not None and not worker.is_alive:  # it died while it waited
                worker.kill()
                worker = None
            worker = worker or self._start()
            return worker.compare(gold, answer, self.limits)
        finally:
            self._give_back(worker)

    def _start(self) -> MathWorker:
        worker = MathWorker(self._niceness)
        with self._lock:
            self._stats.num_started += 1
        return worker

    def _give_back(self, worker: MathWorker | None) -> None:
        """A dead or a used up worker is replaced behind the back of whoever asks next."""
        if worker is None or (worker.is_alive and worker.num_calls < self._recycle_after):
            self._idle.put(worker)
            return
        with self._lock:
            self._stats.num_recycled += int(worker.is_alive)
            self._stats.num_killed += int(not worker.is_alive)
        worker.kill()
        threading.Thread(target=self._replace, name="math-worker-start", daemon=True).start()

    def _replace(self) -> None:
        made: MathWorker | None = None
        try:
            made = None if self._closed else self._start()
        except (ForklightError, OSError) as error:
            logger.error("math worker not replaced, the next call tries again", extra={"reason": str(error)})
        finally:
            self._idle.put(made)

    def close(self) -> None:
        """End all workers; calls in flight finish first."""
        self._closed = True
        for _ in range(self._num_processes):
            worker = self._idle.get(timeout=CLOCK_LIMIT_S + START_LIMIT_S)
            if worker is not None:
                worker.kill()
        for _ in range(self._num_processes):
            self._idle.put(None)


class MathPool:
    """`num_processes` workers of the quick lane and half as many of the slow one. Thread-safe."""

    def __init__(
        self,
        num_processes: int = 1,
        *,
        quick: CallLimits = QUICK_LIMITS,
        slow: CallLimits | None = None,
        recycle_after: int = RECYCLE_AFTER,
    ) -> None:
        self.stats = PoolStats()
        self.most_calls = 2 * num_processes + MOST_SLOW
        """Callers that it makes sense to let in at once."""
        num_slow = (num_processes + 1) // 2
        self._quick = Lane(num_processes, quick, self.stats, recycle_after=recycle_after)
        self._slow = Lane(
            num_slow, slow or CallLimits(), self.stats, niceness=SLOW_NICENESS, recycle_after=recycle_after
        )
        self._lock = threading.Lock()
        self._num_slow = 0

    @property
    def waiting_slow(self) -> int:
        """Calls in or before the slow lane now."""
        with self._lock:
            return self._num_slow

    def warm_up(self) -> None:
        """Start one worker ahead of the first call."""
        self.compare("x+1", "1+x", wait_s=START_LIMIT_S)

    def compare(self, gold: str, answer: str, *, wait_s: float) -> Word:
        """What math-verify says; LIMIT when it was not done within its CPU time. BusyError when no worker is
        free in time.
        """
        deadline = time.monotonic() + wait_s
        word = self._quick.compare(gold, answer, wait_s=wait_s)
        if word is not Word.LIMIT:
            return word
        self._enter_slow()
        try:
            return self._slow.compare(gold, answer, wait_s=deadline - time.monotonic())
        finally:
            with self._lock:
                self._num_slow -= 1

    def _enter_slow(self) -> None:
        with self._lock:
            if self._num_slow >= MOST_SLOW:
                raise BusyError(
                    f"verifier: {self._num_slow} answers wait for the slow lane already; try later or raise "
                    "reward.verifier_processes"
                )
            self._num_slow += 1
            self.stats.num_slow += 1

    def close(self) -> None:
        """End all workers; calls in flight finish first."""
        self._quick.close()
        self._slow.close()
