"""`make soak-reward`: thousands of verdicts through queue, buffer and four roles, while workers are killed.

No verdict may be lost, given twice or wrong; none may be missing because a worker died; memory stays flat; no
process, file or mount stays behind.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import asyncio
import os
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from forklight.v1 import types_pb2
from forklight_buffer.audit import audit_run
from services.reward.bench.roles import FRONT, JUDGE, SANDBOX, VERIFIER
from tests.soak.watch import Memory, adopt_orphans, left_files, left_processes, mounts
from tests.soak.world import GROUP_SIZE, GROUPS_A_STEP, Soak, kill_at, learn, open_soak, write_groups

VICTIMS = (VERIFIER, SANDBOX, FRONT, JUDGE)
QUIET_SHARE = 0.4
"""Of the groups, at the end, without kills: there memory is measured."""
MOST_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One soak."""

    num_groups: int
    kills_each: int
    seed: int = 0
    num_prompts: int = 400
    limit_s: float = 3000.0
    look_every_s: float = 1.0

    def kills(self) -> Sequence[tuple[int, str]]:
        """(groups learned, victim) in order."""
        chance = random.Random(self.seed)
        last = max(1, int(self.num_groups * (1 - QUIET_SHARE)))
        victims = list(VICTIMS) * self.kills_each
        chance.shuffle(victims)
        return list(zip(sorted(chance.randint(1, last) for _ in victims), victims, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a soak came to; `problems` must be empty."""

    num_verdicts: int
    seconds: float
    num_kills: int
    num_restarts: Mapping[str, int]
    slopes: Mapping[str, tuple[float, float, float]]
    problems: tuple[str, ...]


async def soak(folder: Path, plan: Plan) -> Report:
    """Run it and look at what is left."""
    adopt_orphans()
    mounts_before, memory = mounts(), Memory()
    async with open_soak(
        folder, num_groups=plan.num_groups, num_prompts=plan.num_prompts, seed=plan.seed
    ) as running:
        started = time.monotonic()
        kills = plan.kills()
        watching = asyncio.create_task(memory.watch(running.roles, plan.look_every_s))
        problems = await run_through(running, plan, kills)
        seconds = time.monotonic() - started
        watching.cancel()
        starts = dict(running.roles.num_starts)
    problems += compare(folder / "run", running.expected, plan.num_groups)
    problems += [f"process left behind: {line}" for line in await asyncio.to_thread(left_processes)]
    problems += [f"file left behind: {name}" for name in left_files(running.roles.scratch)]
    problems += [f"mount left behind: {line}" for line in mounts() - mounts_before]
    return Report(
        num_verdicts=len(running.expected),
        seconds=seconds,
        num_kills=len(kills),
        num_restarts={name: number - 1 for name, number in starts.items()},
        slopes=memory.slopes(),
        problems=tuple(problems),
    )


async def run_through(running: Soak, plan: Plan, kills: Sequence[tuple[int, str]]) -> list[str]:
    """Write, kill and learn until every group is learned."""
    try:
        async with asyncio.timeout(plan.limit_s), asyncio.TaskGroup() as tasks:
            tasks.create_task(write_groups(running, plan.num_groups, plan.seed))
            tasks.create_task(learn(running, plan.num_groups))
            tasks.create_task(kill_at(running, kills))
    except TimeoutError:
        return [
            f"after {plan.limit_s:g} s only {running.num_trained} of {plan.num_groups} groups are learned"
        ]
    return []


def compare(folder: Path, expected: Mapping[str, float], num_groups: int) -> list[str]:
    """The ledger against what was written: every sample once, with its score, and a clean audit."""
    with sqlite3.connect(folder / "ledger.sqlite") as database:
        rows = database.execute("SELECT sample_id, state, reward, reason FROM samples").fetchall()
        num_conflicts = database.execute("SELECT COUNT(*) FROM conflicts").fetchone()[0]
    found = {sample: (state, reward, reason) for sample, state, reward, reason in rows}
    problems = []
    if len(expected) != num_groups * GROUP_SIZE:
        problems.append(f"{len(expected)} samples were written instead of {num_groups * GROUP_SIZE}")
    if num_conflicts:
        problems.append(f"{num_conflicts} samples ended twice")
    for sample, score in expected.items():
        state, reward, reason = found.get(sample, (0, None, "lost"))
        if state != types_pb2.SAMPLE_STATE_TRAINED or reward != score:
            name = types_pb2.SampleState.Name(state)
            problems.append(f"{sample}: {name}, reward {reward} instead of {score}: {reason}")
    audit = audit_run(folder, None)
    problems += [f"audit: {violation}" for violation in audit.violations]
    return problems


def show(report: Report, plan: Plan) -> None:
    """The figures of the README."""
    print(
        f"{report.num_verdicts:,} verdicts in {report.seconds:.0f} s "
        f"({report.num_verdicts / report.seconds:.1f}/s), {report.num_kills} kills, seed {plan.seed}, "
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"
    )
    print(f"started again: {dict(Counter(report.num_restarts))}")
    print("memory without the first 30% of each process's longest life, its children included:")
    for name, (size, slope, minutes) in sorted(report.slopes.items()):
        print(f"    {name:<16}{size:>8.1f} MiB{slope:>+9.2f} MiB a minute over {minutes:.1f} minutes")
    for problem in report.problems[:MOST_SHOWN]:
        print(f"NOT RIGHT: {problem}")
    print(
        f"{len(report.problems)} problems"
        if report.problems
        else "no verdict lost, double or wrong; nothing left behind"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--verdicts", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=5, help="of each of the four roles")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    num_groups = options.verdicts // (GROUP_SIZE * GROUPS_A_STEP) * GROUPS_A_STEP
    plan = Plan(num_groups=num_groups, kills_each=options.kills, seed=options.seed)
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(soak(Path(folder), plan))
    show(report, plan)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
