"""math-verify in killable processes.

A call that must be killed is the answer's fault; a worker that dies by itself is ours.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import IO, cast

from forklight_core.errors import BusyError, UnavailableError

KILL_AFTER_S = 4.0
START_LIMIT_S = 90.0
RECYCLE_AFTER = 1000
_KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "LANG")

logger = logging.getLogger(__name__)


class Word(StrEnum):
    """What a worker says of a pair."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNREADABLE = "unreadable"
    LIMIT = "limit"


@dataclass(slots=True, kw_only=True)
class PoolStats:
    """What became of the workers since the pool was made."""

    num_started: int = 0
    num_killed: int = 0
    num_recycled: int = 0


class MathWorker:
    """One process; used by one thread at a time."""

    def __init__(self) -> None:
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        self.num_calls = 0
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "forklight_reward.verifier.math_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment | {"PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self._pending = b""
        if self._read_word(START_LIMIT_S) != "ready":
            self.kill()
            raise UnavailableError(
                f"verifier: a math worker did not start within {START_LIMIT_S:.0f} s "
                f"(exit code {self._process.poll()}); "
                "check that math-verify is installed and that 1 GiB of memory is free"
            )

    @property
    def pid(self) -> int:
        """Process id, for tests and logs."""
        return self._process.pid

    @property
    def _stdout(self) -> IO[bytes]:
        return cast("IO[bytes]", self._process.stdout)

    def compare(self, gold: str, answer: str, kill_after_s: float) -> Word | None:
        """The worker's word; None when it had to be killed or the kernel's CPU limit ended it."""
        request = json.dumps({"call": self.num_calls, "gold": gold, "answer": answer}) + "\n"
        self.num_calls += 1
        try:
            stdin = cast("IO[bytes]", self._process.stdin)
            stdin.write(request.encode())
            stdin.flush()
        except OSError as error:
            raise self._death() from error
        word = self._read_word(kill_after_s)
        if word is not None:
            return Word(word)
        if self._process.poll() not in (None, -signal.SIGPROF):
            raise self._death()
        return None

    def _death(self) -> UnavailableError:
        self.kill()
        return UnavailableError(
            f"verifier: math worker {self.pid} died by itself (exit code {self._process.returncode}); "
            "the call can be repeated"
        )

    def _read_word(self, limit_s: float) -> str | None:
        """The next reply's word; None at the time limit or the end of the stream."""
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._pending:
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                return None
            data = os.read(self._stdout.fileno(), 4096)
            if not data:
                self._process.wait(5.0)
                return None
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return str(json.loads(line)["word"])

    def kill(self) -> None:
        """End the process now."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout):
            try:
                cast("IO[bytes]", stream).close()
            except OSError:
                logger.debug("a pipe of a dead math worker could not be flushed")


class MathPool:
    """A fixed number of workers, started when first needed. Thread-safe."""

    def __init__(
        self, num_processes: int = 1, kill_after_s: float = KILL_AFTER_S, recycle_after: int = RECYCLE_AFTER
    ) -> None:
        self.stats = PoolStats()
        self._kill_after_s = kill_after_s
        self._recycle_after = recycle_after
        self._lock = threading.Lock()
        self._closed = False
        self._slots: queue.LifoQueue[MathWorker | None] = queue.LifoQueue()
        self._num_processes = num_processes
        for _ in range(num_processes):
            self._slots.put(None)

    def warm_up(self) -> None:
        """Start one worker ahead of the first call."""
        self.compare("x+1", "1+x", wait_s=START_LIMIT_S)

    def compare(self, gold: str, answer: str, *, wait_s: float) -> Word:
        """What math-verify says; LIMIT when it had to be killed. BusyError when no worker is free in time."""
        try:
            worker = self._slots.get(timeout=max(0.0, wait_s))
        except queue.Empty:
            raise BusyError(
                f"verifier: no math worker was free within {wait_s:.1f} s; raise reward.verifier_processes"
            ) from None
        kept: MathWorker | None = None
        try:
            if self._closed:
                raise UnavailableError("verifier: the pool of math workers is closed")
            worker = worker or self._start()
            word = worker.compare(gold, answer, self._kill_after_s)
            kept = self._after_call(worker, killed=word is None)
            return word or Word.LIMIT
        finally:
            self._slots.put(kept)

    def _start(self) -> MathWorker:
        worker = MathWorker()
        with self._lock:
            self.stats.num_started += 1
        return worker

    def _after_call(self, worker: MathWorker, *, killed: bool) -> MathWorker | None:
        if not killed and worker.num_calls < self._recycle_after:
            return worker
        worker.kill()
        with self._lock:
            self.stats.num_killed += int(killed)
            self.stats.num_recycled += int(not killed)
        return None

    def close(self) -> None:
        """End all workers; calls in flight finish first."""
        self._closed = True
        for _ in range(self._num_processes):
            worker = self._slots.get(timeout=self._kill_after_s + START_LIMIT_S)
            if worker is not None:
                worker.kill()
        for _ in range(self._num_processes):
            self._slots.put(None)
