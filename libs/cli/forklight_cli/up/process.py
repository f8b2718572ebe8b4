"""One supervised child: own process group and log, gone with us, started again with back-off, or given up."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from forklight_cli.up.plan import ProcessPlan
from forklight_core.child import die_with_parent

EXIT_BAD_INPUT = 2
TAIL_LINES = 3
TAIL_BYTES = 16384


class ProcessState(StrEnum):
    """Where a child stands."""

    NEW = "new"
    RUNNING = "running"
    WAITING = "waiting"
    """It died and is started again soon."""
    ENDED = "ended"
    """It ended because it was told to, or because its work is done."""
    GIVEN_UP = "given up"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """How a dying child is treated."""

    first_delay_s: float = 0.5
    max_delay_s: float = 10.0
    settled_s: float = 20.0
    """A child that lived so long starts again with the first delay."""
    max_rapid_failures: int = 8


class ManagedProcess:
    """A child and its restarts. `check` must be called regularly; it never blocks."""

    def __init__(
        self,
        plan: ProcessPlan,
        log_path: Path,
        *,
        policy: RestartPolicy | None = None,
        inherit: tuple[int, ...] = (),
    ) -> None:
        self.plan = plan
        self.log_path = log_path
        self.state = ProcessState.NEW
        self.num_restarts = 0
        self._policy = policy or RestartPolicy()
        self._inherit = inherit
        self._process: subprocess.Popen[bytes] | None = None
        self._num_rapid_failures = 0
        self._started = 0.0
        self._due = 0.0
        self._stopping = False

    @property
    def pid(self) -> int:
        """Process id of the child, 0 before the first start."""
        return self._process.pid if self._process else 0

    @property
    def exit_code(self) -> int | None:
        """How the child ended last; None while it lives."""
        return self._process.poll() if self._process else None

    @property
    def is_over(self) -> bool:
        """Whether it is not running and will not be started again."""
        return self.state in (ProcessState.ENDED, ProcessState.GIVEN_UP, ProcessState.NEW)

    def start(self) -> None:
        """Start the child."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                die_with_parent([sys.executable, *self.plan.arguments], signal_number=signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.plan.environment},
                start_new_session=True,  # the terminal's Ctrl-C is for the supervisor alone
                pass_fds=self._inherit,
            )
        self._started = time.monotonic()
        self.state = ProcessState.RUNNING

    def check(self) -> str:
        """Notice an end, start again when due. What happened, in words; empty when nothing did."""
        if self.state is ProcessState.WAITING and time.monotonic() >= self._due:
            self.num_restarts += 1
            self.start()
            return f"{self.plan.name} started again ({self.num_restarts}. restart)"
        if self.state is not ProcessState.RUNNING or self.exit_code is None:
            return ""
        self._kill_group()  # what the child left behind
        if self._stopping or (self.exit_code == 0 and self.plan.kind == "trainer"):
            self.state = ProcessState.ENDED
            return ""
        return self._plan_restart()

    def revive(self) -> str:
        """It ended as if its work were done, and it is not: start it again soon. What happened, in words."""
        return self._plan_restart()

    def terminate(self) -> None:
        """Ask the child to drain and end; it is not started again."""
        self._stopping = True
        if self.state is ProcessState.WAITING:
            self.state = ProcessState.ENDED
        if self._process and self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """End the child and everything it started, now."""
        self._stopping = True
        self._kill_group()
        if self._process:
            self._process.wait()
        if self.state is not ProcessState.GIVEN_UP:
            self.state = ProcessState.ENDED

    def log_tail(self) -> str:
        """The last lines of the log."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(max(0, self.log_path.stat().st_size - TAIL_BYTES))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(f"    {line}" for line in lines[-TAIL_LINES:])

    def _plan_restart(self) -> str:
        lived_s = time.monotonic() - self._started
        self._num_rapid_failures = 1 if lived_s > self._policy.settled_s else self._num_rapid_failures + 1
        ended = f"{self.plan.name} ended with {_exit_text(self.exit_code or 0)} after {lived_s:.1f} s"
        hopeless = self.exit_code == EXIT_BAD_INPUT
        if hopeless or self._num_rapid_failures > self._policy.max_rapid_failures:
            self.state = ProcessState.GIVEN_UP
            why = "its input is wrong" if hopeless else f"{self._num_rapid_failures} times in a row"
            return f"{ended}: given up ({why}). Log: {self.log_path}\n{self.log_tail()}"
        delay_s = min(
            self._policy.max_delay_s, self._policy.first_delay_s * 2 ** (self._num_rapid_failures - 1)
        )
        self._due = time.monotonic() + delay_s
        self.state = ProcessState.WAITING
        return f"{ended}: starting it again in {delay_s:.1f} s. Log: {self.log_path}"

    def _kill_group(self) -> None:
        if self._process:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


def _exit_text(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
