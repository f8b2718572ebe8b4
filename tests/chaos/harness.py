"""A short real run as processes, and a hand that kills them at seeded random moments."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.05
FORKLIGHT = (sys.executable, "-m", "forklight_cli")


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill -9 that happened."""

    victim: str
    at_step: int
    at_s: float


class RunningSystem:
    """`forklight up` in a child process."""

    def __init__(self, run_file: Path, folder: Path) -> None:
        self.folder = folder
        self.output = folder.with_suffix(".out")
        self.started = time.monotonic()
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*FORKLIGHT, "up", str(run_file), "--folder", str(folder)],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"FORKLIGHT_NO_COLOR": "1"},
            )

    def resume(self) -> None:
        """Start it again on its folder."""
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*FORKLIGHT, "resume", str(self.folder)],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )

    def pids(self) -> dict[str, int]:
        """Who runs now, from the supervisor's record."""
        try:
            return dict(json.loads((self.folder / "system.json").read_text())["pids"])
        except (FileNotFoundError, ValueError, KeyError):
            return {}

    def step(self) -> int:
        """The last recorded optimizer step."""
        steps = self.steps()
        return int(steps[-1]["step"]) if steps else 0

    def steps(self) -> list[dict[str, float]]:
        path = self.folder / "steps.jsonl"
        if not path.exists():
            return []
        lines = path.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait_until(self, ready: Callable[[], bool], *, deadline_s: float, what: str) -> None:
        """Poll; a failure shows the end of the system's output."""
        end = time.monotonic() + deadline_s
        while not ready():
            if self.process.poll() is not None and not ready():
                code = self.process.returncode
                raise AssertionError(f"the system ended with {code} while waiting for {what}\n{self.tail()}")
            if time.monotonic() > end:
                raise AssertionError(f"{what} took more than {deadline_s:g} s\n{self.tail()}")
            time.sleep(POLL_S)

    def wait_end(self, *, deadline_s: float) -> int:
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the run did not end within {deadline_s:g} s\n{self.tail()}") from None

    def kill(self, victim: str) -> Kill:
        """SIGKILL a process once it runs."""
        self.wait_until(lambda: alive(self.pids().get(victim, 0)), deadline_s=60, what=f"{victim} to run")
        found = Kill(victim, self.step(), time.monotonic() - self.started)
        os.kill(self.pids()[victim], signal.SIGKILL)
        return found

    def stop(self) -> None:
        """End everything; used when a test fails halfway."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def tail(self) -> str:
        """The end of every log, for a failure message."""
        logs = [self.output, *sorted((self.folder / "logs").glob("*.log"))]
        return "\n".join(f"--- {log.name}\n{_last_lines(log)}" for log in logs if log.exists())


def _last_lines(path: Path, number: int = 8) -> str:
    return "\n".join(line[:600] for line in path.read_text(errors="replace").splitlines()[-number:])


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def audit(folder: Path) -> dict[str, object]:
    """`forklight audit --json`; a non-zero exit is a failure with what it printed."""
    done = subprocess.run(
        [*FORKLIGHT, "audit", str(folder), "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise AssertionError(f"audit of {folder} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    report: dict[str, object] = json.loads(done.stdout)
    return report


def status(folder: Path) -> str:
    """What `forklight status` prints."""
    command = [*FORKLIGHT, "status", str(folder)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True, stdin=subprocess.DEVNULL
    ).stdout


def kill_plan(seed: int, victims: list[str], *, last_step: int) -> list[tuple[int, float, str]]:
    """(step to wait for, extra seconds, victim), in order of steps."""
    chance = random.Random(seed)
    order = chance.sample(victims, len(victims))
    steps = sorted(chance.randint(0, last_step) for _ in order)
    return [(step, chance.uniform(0.0, 1.5), victim) for step, victim in zip(steps, order, strict=True)]
