"""`make bench-reward`: verdicts a second, latency and CPU of every class of work, through the real services.

    python -m services.reward.bench.all [--quick] [--only "math-slow;judge"] [--seconds 5] [--callers 1,4]

Verifier, sandbox, judge and front run as processes, as `forklight up` starts them; a scripted judge answers
behind HTTP. Every verdict is compared with the known one: a benchmark with one that is not right fails.
"""

# ruff: noqa: INP001, T201
from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from forklight_core.redis_server import start_embedded
from services.reward.bench.load import Measured, drive
from services.reward.bench.roles import REWARD_ROLES, Roles, start_chat
from services.reward.bench.work import CLASSES, bombed, endless

BOMBED = "math-slow, 10% bombs"
NAMES = (*CLASSES, BOMBED)
BOMBS_EVERY = 10
HEADER = (
    "| class | callers | verdicts/s | p50 ms | p99 ms | CPU ms a verdict | verdicts |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)
ELSEWHERE = """
Figures of others, on machines and for programs of their own: they say what is usual, not who is faster.
| what | figure | source |
| --- | --- | --- |
| hosted microVMs (e2b), code | 4.1 jobs/s with 64 at once (256 jobs in 62 s) | huggingface/open-r1#546 |
| local FaaS instead of processes, reward stage | 60% shorter | volcengine/verl#1429 |
| SandboxFusion, reward stage of a step | 10 to 30% shorter | documentation of verl |
| math-verify alone, warm, in its own process | median 1.7 to 2.7 ms, p95 29 to 89 ms; a bomb 5.0 to 6.7 s \
| measured on 2 loaded cores of an AMD EPYC |
| `docker run --rm` for one line of Python | median 492 ms, p95 909 ms | same machine |
| subprocess without any limit, one line of Python | median 20.6 ms, p95 53 ms | same machine |
"""
RUN_FILE = """
[run]
name = "rewards"
[prompts]
train = "{folder}/prompts.jsonl"
[trainer]
steps = 1
[reward]
concurrency = 64
verifier_processes = {processes}
[reward.judge]
kind = "openai"
endpoints = ["{chat}"]
[evaluation]
every_versions = 0
[recipe]
overlong_penalty = false
allow_deviation = true
"""


@contextlib.contextmanager
def running(folder: Path, processes: int) -> Iterator[Roles]:
    """Front, verifier, sandbox and judge, ready."""
    chat, url = start_chat()
    run_file = folder / "bench.toml"
    run_file.write_text(RUN_FILE.format(folder=folder, chat=url, processes=processes))
    (folder / "prompts.jsonl").write_text('{"id": "p", "prompt": "1+1?", "kind": "math", "gold": "2"}\n')
    try:
        with start_embedded(folder / "redis") as redis:
            roles = Roles(folder / "run", run_file, redis.url, REWARD_ROLES)
            try:
                roles.start_all()
                yield roles
            finally:
                roles.stop()
    finally:
        chat.kill()
        chat.wait()


def row(name: str, measured: Measured) -> str:
    if not measured.latencies_s:
        return f"| {name} | {measured.concurrency} | - | - | - | - | 0 |"
    return (
        f"| {name} | {measured.concurrency} | {measured.per_s:,.1f} | {measured.percentile_ms(50):,.1f} | "
        f"{measured.percentile_ms(99):,.1f} | {measured.cpu_ms:,.2f} | {measured.num_verdicts:,} |"
    )


def machine(processes: int) -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return (
        f"{os.cpu_count()} cores, {model}, {psutil.virtual_memory().total / 2**30:.0f} GiB, "
        f"load {os.getloadavg()[0]:.1f} at the start; {processes} math processes; the callers run on the "
        "same cores"
    )


def measure(roles: Roles, names: list[str], callers: list[int], seconds: float) -> list[str]:
    """Print a row for every class and number of callers; returns what was not right."""
    failed = []
    for name in names:
        for concurrency in callers:
            cases = bombed("math-slow", BOMBS_EVERY) if name == BOMBED else endless(name)
            measured = asyncio.run(drive(roles, cases, concurrency=concurrency, seconds=seconds))
            print(row(name, measured), flush=True)
            failed += [f"{name}, {concurrency} callers: {what}" for what in measured.wrong[:3]]
    return failed


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="4 callers, 2 s each")
    parser.add_argument("--only", default="", help=f"names between semicolons, of {'; '.join(NAMES)}")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each row")
    parser.add_argument("--callers", default="1,4,16", help="how many ask at once")
    parser.add_argument("--processes", type=int, default=2, help="of the pool for mathematics")
    options = parser.parse_args()
    options.names = [name.strip() for name in options.only.split(";") if name.strip()] or list(NAMES)
    if unknown := sorted(set(options.names) - set(NAMES)):
        parser.error(f"there is no {', '.join(unknown)}; there are {'; '.join(NAMES)}")
    if options.quick:
        options.seconds, options.callers = min(options.seconds, 2.0), "4"
    return options


def main() -> int:
    options = read_options()
    callers = [int(number) for number in options.callers.split(",")]
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), options.processes) as roles:
        print(f"{machine(options.processes)}\n{HEADER}", flush=True)
        failed = measure(roles, options.names, callers, options.seconds)
    print(ELSEWHERE)
    print("\n".join(["not right:", *failed]) if failed else "every verdict was the known one")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
