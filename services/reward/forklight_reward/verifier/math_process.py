"""One process that compares with math-verify, as the pool sees it: start, ask, kill.

CPU time decides, not the clock: the kernel ends a call at its CPU limit, and a process that merely got no CPU
is our failure, never the answer's.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import IO, cast

from forklight_core.errors import UnavailableError

START_LIMIT_S = 90.0
CLOCK_LIMIT_S = 60.0
"""Of a call. A process that has not reached its CPU limit by then has been starved."""
_KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "LANG")

logger = logging.getLogger(__name__)


class Word(StrEnum):
    """What a worker says of a pair."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNREADABLE = "unreadable"
    LIMIT = "limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """CPU seconds of one call: where an alarm ends it, and where the kernel ends the process."""

    soft_s: float = 2.0
    hard_s: float = 4.0


class MathWorker:
    """One process; used by one thread at a time."""

    def __init__(self, niceness: int = 0) -> None:
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        self.num_calls = 0
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "forklight_reward.verifier.math_worker", str(niceness)],
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
    def is_alive(self) -> bool:
        """Whether it can be asked again."""
        return self._process.poll() is None

    @property
    def _stdout(self) -> IO[bytes]:
        return cast("IO[bytes]", self._process.stdout)

    def compare(self, gold: str, answer: str, limits: CallLimits) -> Word:
        """The worker's word; LIMIT when the alarm or the kernel ended the call. UnavailableError when the
        process died of anything else, or got no CPU.
        """
        request = {"call": self.num_calls, "gold": gold, "answer": answer}
        request |= {"soft_s": limits.soft_s, "hard_s": limits.hard_s}
        self.num_calls += 1
        try:
            stdin = cast("IO[bytes]", self._process.stdin)
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
        except OSError as error:
            raise self._death("died by itself") from error
        word = self._read_word(CLOCK_LIMIT_S)
        if word is not None:
            return Word(word)
        if self._process.poll() == -signal.SIGPROF:
            return Word.LIMIT
        raise self._death("was starved" if self.is_alive else "died by itself")

    def _death(self, how: str) -> UnavailableError:
        self.kill()
        return UnavailableError(
            f"verifier: math worker {self.pid} {how} (exit code {self._process.returncode}); "
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
