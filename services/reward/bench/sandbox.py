"""Start and throughput of this machine's jails: cold, and made ahead of their jobs."""

# ruff: noqa: INP001, T201
from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from forklight_reward.sandbox.jail_runner import JailRunner, open_jail_runner
from forklight_reward.sandbox.runner import Job, JobKind
from forklight_reward.sandbox.spec import Limits
from forklight_reward.sandbox.warm import PoolSize

JOB = Job(kind=JobKind.PROGRAM, source=b"print(6 * 7)", limits=Limits())


class Meter:
    """CPU seconds of this process and of all it starts, jails included, as a control group counts them."""

    def __init__(self) -> None:
        self._folder = Path(f"/sys/fs/cgroup/cpuacct/forklight-{os.getpid()}-bench")
        try:
            self._folder.mkdir()
            (self._folder / "cgroup.procs").write_text(str(os.getpid()))
        except OSError:
            self._folder = Path()

    def read(self) -> float:
        """So far; not a number without cgroup v1 that we may write."""
        usage = self._folder / "cpuacct.usage"
        return int(usage.read_text()) / 1e9 if usage.exists() else float("nan")


def run_once(runner: JailRunner) -> float:
    """Seconds of one trivial run, from the call to its return."""
    started = time.perf_counter()
    ended = runner.run(JOB)
    assert ended.stdout == b"42\n", ended
    return time.perf_counter() - started


def wait_full(runner: JailRunner) -> None:
    """Until the pool is filled and its jails have come up, so that only the run itself is measured."""
    deadline = time.monotonic() + 30
    while runner.num_ready() < runner.num_wanted() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)


def latency(runner: JailRunner, rounds: int) -> str:
    """Median, p95 and least of single runs with nothing else going on."""
    run_once(runner)
    times = []
    for _ in range(rounds):
        wait_full(runner)
        times.append(run_once(runner) * 1000)
    times.sort()
    return f"{statistics.median(times):9.1f} {times[int(0.95 * len(times))]:8.1f} {times[0]:8.1f}"


def throughput(runner: JailRunner, meter: Meter, num_threads: int, num_runs: int) -> str:
    """Runs a second, and the CPU milliseconds of one."""
    wait_full(runner)
    started, used = time.perf_counter(), meter.read()
    with ThreadPoolExecutor(num_threads) as threads:
        list(threads.map(lambda _: run_once(runner), range(num_runs)))
    taken_s = time.perf_counter() - started
    wait_full(runner)  # what the next runs find ready has been paid for by then
    return f"{num_runs / taken_s:9.1f} {(meter.read() - used) * 1000 / num_runs:8.1f}"


def main() -> None:
    """Both kinds, one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2 * (os.cpu_count() or 1))
    arguments = parser.parse_args()
    meter = Meter()
    makers: dict[str, Callable[[], JailRunner]] = {
        "cold": open_jail_runner,
        "warm": lambda: open_jail_runner(warm=PoolSize(num_ready=8)),
    }
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {arguments.threads} threads")
    print(f"{'jail':6} {'median ms':>9} {'p95':>8} {'min':>8} {'runs/s':>9} {'CPU ms':>8}")
    for name, make in makers.items():
        runner = make()
        try:
            waited = latency(runner, arguments.rounds)
            print(f"{name:6} {waited} {throughput(runner, meter, arguments.threads, arguments.runs)}")
        finally:
            runner.close()
    print(runner.version)


if __name__ == "__main__":
    main()
