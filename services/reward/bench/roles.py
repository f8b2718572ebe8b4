"""The services of rewards as processes, planned as `forklight up` plans them: started, killed, measured."""

# ruff: noqa: INP001
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from forklight_cli.run_folder import RunFolder
from forklight_cli.up.plan import ProcessPlan, plan_system
from forklight_cli.up.ready import is_ready
from forklight_core.child import die_with_parent
from forklight_core.runfile import load_run_file

RUN_ID = "rewards"
READY_S = 120.0
STOP_S = 40.0
POLL_S = 0.05
FRONT, VERIFIER, SANDBOX, JUDGE = "reward-front", "reward-verifier", "reward-sandbox", "reward-judge"
REWARD_ROLES = (VERIFIER, SANDBOX, JUDGE, FRONT)
CHAT = (sys.executable, "-m", "services.reward.bench.chat_endpoint")


class Roles:
    """Some processes of a run, each with a log. They end with this process, whatever happens to it."""

    def __init__(self, folder: Path, run_file: Path, redis_url: str, names: Sequence[str]) -> None:
        place = RunFolder(folder)
        place.logs.mkdir(parents=True, exist_ok=True)
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        shutil.copy(run_file, place.run_file)
        self._folder = place
        self.plan = plan_system(load_run_file(place.run_file), place, RUN_ID, redis_url)
        self.plans = {plan.name: plan for plan in self.plan.processes if plan.name in names}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.num_starts: dict[str, int] = dict.fromkeys(names, 0)

    def start(self, name: str) -> None:
        """Start one; whatever it keeps for the moment goes into a folder of ours."""
        plan = self.plans[name]
        with self._folder.log_of(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                die_with_parent([sys.executable, *plan.arguments], signal_number=signal.SIGKILL),
                env={**os.environ, **plan.environment, "TMPDIR": str(self.scratch), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.num_starts[name] += 1

    def start_all(self) -> None:
        """Start every one and wait until it serves."""
        for name in self.plans:
            self.start(name)
        self.wait_ready(tuple(self.plans))

    def wait_ready(self, names: Sequence[str], limit_s: float = READY_S) -> None:
        """Poll their doors; one that has ended, or is late, is an error with the end of its log."""
        end = time.monotonic() + limit_s
        waiting: list[ProcessPlan] = [self.plans[name] for name in names]
        while waiting:
            waiting = [plan for plan in waiting if not is_ready(plan)]
            for plan in waiting:
                if self.processes[plan.name].poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{plan.name} does not serve:\n{self.tail(plan.name)}")
            time.sleep(POLL_S if waiting else 0)

    def is_running(self, name: str) -> bool:
        """Whether it has been started and has not ended."""
        return name in self.processes and self.processes[name].poll() is None

    def kill(self, name: str) -> int:
        """kill -9, reaped; returns the process id."""
        process = self.processes[name]
        process.kill()
        process.wait()
        return process.pid

    def stop(self) -> Mapping[str, int]:
        """Tell all to end, the front first; returns exit codes (a negative one: it had to be killed)."""
        codes: dict[str, int] = {}
        for names in ((FRONT,), tuple(self.processes)):
            ending = {name: self.processes[name] for name in names if name in self.processes}
            for process in ending.values():
                if process.poll() is None:
                    process.terminate()
            codes |= {name: end(process) for name, process in ending.items()}
        return codes

    def tail(self, name: str) -> str:
        """The end of its log."""
        return self._folder.log_of(name).read_text(errors="replace")[-3000:]

    def cpu_s(self) -> float:
        """CPU seconds of all of them and of whatever they have started, the dead included."""
        return sum(tree_cpu_s(process.pid) for process in self.processes.values())

    def resident_bytes(self) -> Mapping[str, int]:
        """Memory of each with all that lives under it."""
        return {name: tree_bytes(process.pid) for name, process in self.processes.items()}


def end(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process that was told to end; kill it where it does not."""
    try:
        return process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def tree(pid: int) -> list[psutil.Process]:
    """A process and its descendants."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def tree_cpu_s(pid: int) -> float:
    """Their own time and that of the children that they have buried."""
    total = 0.0
    for process in tree(pid):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def tree_bytes(pid: int) -> int:
    """Resident bytes; shared pages count in each."""
    total = 0
    for process in tree(pid):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def start_chat() -> tuple[subprocess.Popen[str], str]:
    """The endpoint of a scripted judge in a process of its own, and its address."""
    process = subprocess.Popen(
        die_with_parent(CHAT, signal_number=signal.SIGKILL), stdout=subprocess.PIPE, text=True
    )
    url = (process.stdout.readline() if process.stdout else "").strip()
    if not url:
        raise RuntimeError(f"the judge's endpoint did not start: exit code {process.wait()}")
    return process, url
