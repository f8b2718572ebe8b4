"""`make simulate-pods`: real rollout pods without GPUs against a real buffer and a real Redis, more and more
of them. Prints a table, writes JSON, and ends with 1 when anything was lost or done twice.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from forklight_core.errors import ForklightError
from forklight_core.redis_server import find_redis_binary
from tests.scale.report import (
    FAULT_HEAD,
    STAGE_HEAD,
    bottleneck,
    breaks,
    fault_row,
    profile,
    stage_row,
    table,
    to_json,
)
from tests.scale.scenario import Ending, FaultShares, Simulation, Stage
from tests.scale.world import Shape, open_world

SIZES = (10, 50, 100, 200, 500)
BEYOND = 1.5
"""A ramp goes on with so many times the pods."""
SEGMENTS_A_SAMPLE = 2.5
POD_BYTES = 6 * 2**20
FILES_A_POD = 4
"""Connections that Redis, one process, has of a pod: about three."""
END_SHARE = 0.15
"""Of the time: kept for draining and the audit."""
STAGE_OVERHEAD_S = 15.0
LONGEST_QUIET_S = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the command line asks for."""

    sizes: tuple[int, ...]
    minutes: float
    seed: int
    shape: Shape
    faults: bool
    ramp: bool
    output: Path

    @property
    def quiet_s(self) -> float:
        """Of each stage: what is left of its part of the time after joins and faults."""
        stage_s = self.minutes * 60 * (1 - END_SHARE) / (len(self.sizes) + (1 if self.ramp else 0))
        faults_s = 3.2 * self.shape.lease_s if self.faults else 0.0
        return min(LONGEST_QUIET_S, max(5.0, stage_s - faults_s - STAGE_OVERHEAD_S))


def make_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(prog="make simulate-pods", description=__doc__)
    parser.add_argument(
        "--pods", default=",".join(map(str, SIZES)), help="sizes of the fleet, rising: 10,50,500"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything (default 9)")
    parser.add_argument("--seed", type=int, default=0, help="which pods are slowed, stalled and drained")
    parser.add_argument(
        "--sample-s", type=float, default=40.0, help="mean time that a sample takes (default 40)"
    )
    parser.add_argument("--sequences", type=int, default=2, help="sequences of a pod (default 2)")
    parser.add_argument("--no-faults", action="store_true", help="only joins and a quiet look at each size")
    parser.add_argument("--ramp", action="store_true", help="go on past the last size until something breaks")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(tempfile.gettempdir()) / "simulate-pods.json",
        help="where the JSON goes",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be done, and check that it can be"
    )
    return parser


def read_plan(arguments: Sequence[str] | None = None) -> tuple[Plan, bool]:
    """The plan, and whether it is only to be shown."""
    parser = make_parser()
    chosen = parser.parse_args(arguments)
    try:
        sizes = tuple(int(size) for size in chosen.pods.split(","))
    except ValueError:
        parser.error(f"--pods {chosen.pods!r}: give whole numbers with commas between, for example 10,50,100")
    problems = [
        (not sizes or sizes[0] < 2 or list(sizes) != sorted(set(sizes)), "--pods must rise, from 2 on"),
        (not 0.3 <= chosen.minutes <= 60, "--minutes must be between 0.3 and 60"),
        (not 1 <= chosen.sample_s <= 3600, "--sample-s must be between 1 and 3600"),
        (not 1 <= chosen.sequences <= 64, "--sequences must be between 1 and 64"),
        (
            not chosen.out.resolve().parent.is_dir(),
            f"--out: there is no folder {chosen.out.resolve().parent}",
        ),
    ]
    for is_wrong, message in problems:
        if is_wrong:
            parser.error(message)
    tokens = chosen.sample_s * Shape().tokens_per_s
    shape = Shape(
        mean_tokens=tokens,
        num_sequences=chosen.sequences,
        segment_tokens=max(1, int(tokens / SEGMENTS_A_SAMPLE)),
    )
    plan = Plan(
        sizes=sizes,
        minutes=chosen.minutes,
        seed=chosen.seed,
        shape=shape,
        faults=not chosen.no_faults,
        ramp=chosen.ramp,
        output=chosen.out,
    )
    return plan, chosen.dry_run


def check_machine(plan: Plan) -> list[str]:
    """What is missing here for so many pods."""
    most = plan.sizes[-1]
    problems = []
    try:
        find_redis_binary()
    except ForklightError as error:
        problems.append(str(error))
    needed, free = most * POD_BYTES + 2**30, psutil.virtual_memory().available
    if needed > free:
        problems.append(f"{most} pods need about {needed >> 20} MiB of memory, {free >> 20} MiB are free")
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < most * FILES_A_POD:
        problems.append(f"{most} pods need {most * FILES_A_POD} open files, the limit is {files}: ulimit -Hn")
    return problems


def describe(plan: Plan) -> str:
    """What would be done."""
    shape = plan.shape
    return (
        f"pods {', '.join(map(str, plan.sizes))}{' and on until something breaks' if plan.ramp else ''}; "
        f"{plan.quiet_s:.0f} s of quiet at each{', then faults' if plan.faults else ''}; "
        f"at most {plan.minutes:g} minutes\n"
        f"a pod: {shape.num_sequences} sequences of {shape.tokens_per_s:g} tokens/s, "
        f"{shape.mean_tokens:g} tokens a sample (lognormal), saved every {shape.segment_tokens} tokens: "
        f"{shape.samples_per_s:.2f} samples/s\n"
        f"groups of {shape.group_size}, {shape.groups_per_step} a step, a version every "
        f"{shape.steps_per_version} steps, leases of {shape.lease_s:g} s, "
        f"up to {shape.pods_per_host} pods a process"
    )


def run_stages(simulation: Simulation, plan: Plan, end: float) -> list[Stage]:
    """All sizes, and beyond them when asked to."""
    stages: list[Stage] = []
    sizes = list(plan.sizes)
    shares = FaultShares() if plan.faults else None
    while sizes:
        size = sizes.pop(0)
        is_beyond = size > plan.sizes[-1]
        stage_s = (
            plan.quiet_s
            + STAGE_OVERHEAD_S
            + (0.0 if shares is None or is_beyond else 3.2 * plan.shape.lease_s)
        )
        if stages and time.monotonic() + stage_s > end:
            simulation.say(f"no time left for {size} pods")
            break
        simulation.say(f"--- {size} pods")
        try:
            stage = simulation.run_stage(size, quiet_s=plan.quiet_s, faults=None if is_beyond else shares)
        except AssertionError as error:
            simulation.failure = f"{size} pods: {error}"
            break
        stages.append(stage)
        print_stage(stage)
        if breaks(stage):
            simulation.say(f"the criterion is not met at {size} pods: {'; '.join(breaks(stage))}")
            if is_beyond:
                break
        if plan.ramp and not sizes:
            sizes.append(int(size * BEYOND))
    return stages


def print_stage(stage: Stage) -> None:
    """As soon as it is known."""
    print(table(STAGE_HEAD, [stage_row(stage)]))
    if stage.faults is not None:
        print(table(FAULT_HEAD, [fault_row(stage, stage.faults)]), flush=True)


def print_end(stages: Sequence[Stage], ending: Ending) -> None:
    """Everything in one place."""
    print("\nquiet looks\n" + table(STAGE_HEAD, [stage_row(stage) for stage in stages]))
    faults = [fault_row(stage, stage.faults) for stage in stages if stage.faults is not None]
    if faults:
        print("\nfaults\n" + table(FAULT_HEAD, faults))
    if stages:
        print_limit(stages[-1])
    wasted = ending.tokens_wasted / max(1, ending.tokens_drawn)
    print(
        f"\n{ending.audit.num_samples} samples opened, {ending.num_trained} trained, "
        f"{ending.audit.num_open} open; "
        f"{ending.num_trained_twice} trained twice, {len(ending.audit.violations)} violations in the audit; "
        f"{ending.tokens_drawn} tokens drawn, {wasted:.1%} wasted"
    )
    if ending.num_not_drained:
        print(f"{ending.num_not_drained} pods did not end in time when all left together, and were killed")
    for violation in ending.audit.violations[:10]:
        print(f"  {violation.kind}: {violation.subject}: {violation.detail}")


def print_limit(last: Stage) -> None:
    """Where the time went at the last size."""
    print(f"\nwhere the buffer's thread was at {last.num_pods} pods")
    for name, share in profile(last.quiet):
        print(f"  {share:6.1%}  {name}")
    why = "; ".join(breaks(last))
    if why:
        print(f"\nbreaks at {last.num_pods} pods: {why}\nfirst: {bottleneck(last, os.cpu_count() or 1)}")
    else:
        print(f"\nnothing breaks at {last.num_pods} pods")


def simulate(plan: Plan) -> int:
    """All of it; the exit code."""
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:5.0f} s] {text}", flush=True)

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    end = started + plan.minutes * 60 * (1 - END_SHARE)
    with (
        tempfile.TemporaryDirectory(prefix="forklight-scale-") as folder,
        open_world(Path(folder), plan.shape, plan.sizes[0]) as world,
    ):
        simulation = Simulation(world, plan.seed, say)
        try:
            stages = run_stages(simulation, plan, end)
            ending = simulation.end()
        finally:
            simulation.close()
    print_end(stages, ending)
    said = {"shape": asdict(plan.shape), "seed": plan.seed, "cores": os.cpu_count()} | to_json(stages, ending)
    plan.output.write_text(json.dumps(said, indent=1) + "\n")
    print(f"figures: {plan.output}; {time.monotonic() - started:.0f} s")
    if simulation.failure:
        sys.stderr.write(f"not seen through: {simulation.failure}\n")
    return 0 if ending.is_clean and not simulation.failure else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    plan, is_dry = read_plan(arguments)
    problems = check_machine(plan)
    for problem in problems:
        sys.stderr.write(f"cannot simulate: {problem}\n")
    if is_dry:
        print(describe(plan))
    if is_dry or problems:
        return 2 if problems else 0
    print(describe(plan), flush=True)
    return simulate(plan)


if __name__ == "__main__":
    sys.exit(main())
