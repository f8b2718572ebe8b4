"""Child processes that say one JSON line after another; a thread each reads what they say."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forklight_core.child import die_with_parent

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Said:
    """A line, and when it was read."""

    at: float
    line: dict[str, Any]


@dataclass(slots=True, eq=False)
class Child:
    """A process, and what it has said."""

    process: subprocess.Popen[bytes]
    said: deque[Said] = field(default_factory=deque)
    thread: threading.Thread | None = None

    def tell(self, order: dict[str, Any]) -> None:
        """One line to its stdin; a process that was killed does not mind."""
        if self.process.stdin is not None and self.process.poll() is None:
            try:
                self.process.stdin.write(json.dumps(order).encode() + b"\n")
                self.process.stdin.flush()
            except BrokenPipeError:
                return

    def close(self, deadline_s: float) -> int:
        """Close its stdin, wait for its end and for its last line; returns the exit code."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            code = self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"{self.process.args!r} did not end within {deadline_s:g} s of the end of its orders"
            ) from None
        self._let_go()
        return code

    def kill(self) -> None:
        """kill -9, with all pods that it holds."""
        self.process.kill()
        self.process.wait()
        self._let_go()

    def _let_go(self) -> None:
        """Its last line is read, its pipes are closed."""
        if self.thread is not None:
            self.thread.join(5.0)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _read(self) -> None:
        if self.process.stdout is None:
            return
        for line in self.process.stdout:
            try:
                self.said.append(Said(time.time(), json.loads(line)))
            except ValueError:
                continue  # the last line of a killed process


def start_child(module: str, plan: dict[str, Any], folder: Path) -> Child:
    """`python -m MODULE PLAN_JSON`, its errors in the folder."""
    command = [sys.executable, "-m", module, json.dumps(plan)]
    with (folder / f"{module.rpartition('.')[2]}.log").open("ab") as log:
        process = subprocess.Popen(
            die_with_parent(command),
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    child = Child(process)
    child.thread = threading.Thread(target=child._read, daemon=True)
    child.thread.start()
    return child
