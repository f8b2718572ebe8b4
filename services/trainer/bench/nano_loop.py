"""The whole loop on a CPU with two cores, beside TRL: samples a second, and what so many samples taught.

    python services/trainer/bench/nano_loop.py [--steps 24] [--folder DIR] [--parts peer,ours] [--check]

Ours is every service as `forklight up` starts it; the peer is TRL's GRPOTrainer with loss_type="cispo" over
transformers' MiniMax (`nano_peer.py`). Both start from the same weights (a cold start of `nano`, a minute or
more) and get the same sums, 256 samples of at most 32 tokens a step in groups of 8, the same reward, learning
rate and AdamW, one update a step, and no dynamic sampling. TRL: torch on both cores, or on one where that is
faster. Ours: trainer and rollout with a thread each. A folder that is given is kept, and its cold start used
again. CPU time a sample is the steadier figure where other work shares the machine.
"""

# ruff: noqa: INP001
from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import nano_processes
from nano_ours import Run, run_ours
from nano_task import EXAM_SAMPLES, SAMPLES_A_STEP, SETTLING_STEPS, Mark, Task, examine, prepare
from report import Report

CORES = 2
LAST_STEPS = 4
LIMIT_S = 900.0
TARGET = 2.0
NUM_HELD_OUT = 256
PEER_SCRIPT = Path(__file__).with_name("nano_peer.py")
INSTALL = "the peer needs TRL: pip install trl==1.16.0 transformers datasets"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one side reached."""

    samples_per_s: float
    cpu_ms: float
    """A sample, over all its processes."""
    reward: float
    """Mean of its last steps."""
    exam: float | None
    """On held-out sums, after all steps; None where there are no weights to examine."""


def measure(marks: list[Mark], exam: float | None) -> Side:
    """Over the steps behind the settling ones."""
    first, last = marks[SETTLING_STEPS - 1], marks[-1]
    num_samples = sum(mark.num_samples for mark in marks[SETTLING_STEPS:])
    return Side(
        samples_per_s=num_samples / (last.time - first.time),
        cpu_ms=1e3 * (last.cpu_s - first.cpu_s) / num_samples,
        reward=statistics.mean(mark.reward for mark in marks[-LAST_STEPS:]),
        exam=exam,
    )


def run_peer(report: Report, task: Task, steps: int) -> Side | None:
    """The peer in a process of its own. One that breaks down is told with what was seen, and not mended."""
    if importlib.util.find_spec("trl") is None:
        report.say(INSTALL)
        return None
    said, log = task.folder / "peer.jsonl", task.folder / "peer.log"
    command = [sys.executable, "-u", str(PEER_SCRIPT), str(task.folder), str(steps), str(CORES)]
    with said.open("wb") as output, log.open("wb") as errors, contextlib.suppress(subprocess.TimeoutExpired):
        environment = nano_processes.environment()
        subprocess.run(command, env=environment, stdout=output, stderr=errors, timeout=LIMIT_S, check=False)
    marks, ending = read_peer(said)
    if not ending:
        raise RuntimeError(f"the peer did no step:\n{nano_processes.read_tail(log)}")
    if "num_parameters" not in ending:
        report.add("TRL does not end, steps", len(marks), notes=nano_processes.read_tail(log)[-200:])
    if "error" in ending or ending.get("not_finite"):
        seen = ending.get("error") or f"not finite: {ending['not_finite']}"
        report.add("TRL breaks down after", len(marks), "steps", notes=str(seen)[:200])
    if len(marks) <= SETTLING_STEPS:
        return None
    folder = task.folder / "peer_final"
    side = measure(marks, examine(task, folder) if folder.exists() else None)
    show_side(report, "TRL", side, notes=f"{ending['threads']} threads")
    return side


def read_peer(said: Path) -> tuple[list[Mark], dict[str, object]]:
    """Its steps, and the newest of all else that it said. The library prints lines of its own between."""
    marks, ending = list[Mark](), dict[str, object]()
    for line in said.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith('{"'):
            content = json.loads(line)
            marks += [Mark(**content["mark"])] if "mark" in content else []
            ending |= content
    return marks, ending


def show_side(report: Report, name: str, side: Side, notes: str = "") -> None:
    report.add(f"{name}, whole loop", side.samples_per_s, "samples/s", notes=notes)
    report.add(f"{name}, CPU time a sample", side.cpu_ms, "ms")
    report.add(f"{name}, reward of the last {LAST_STEPS} steps", side.reward)
    report.add(f"{name}, held-out reward at the end", side.exam)


def show_ours(report: Report, run: Run, side: Side) -> None:
    settled = run.stages[SETTLING_STEPS:]
    stages = {name: statistics.mean(each.get(name, 0.0) for each in settled) for name in settled[-1]}
    show_side(report, "Forklight", side, notes=f"seconds a step of the trainer: {_listed(stages)}")
    before, after = run.cpu_s[SETTLING_STEPS - 1], run.cpu_s[-1]
    num_steps = len(run.marks) - SETTLING_STEPS
    by_service = {name: (after[name] - before.get(name, 0.0)) / num_steps for name in after}
    control = sum(each for name, each in by_service.items() if name not in ("trainer", "rollout"))
    notes = f"CPU seconds a step: {_listed(by_service)}"
    report.add(
        "Forklight, CPU time of all but trainer and rollout",
        1e3 * control / SAMPLES_A_STEP,
        "ms",
        notes=notes,
    )


def compare(report: Report, ours: Side, peer: Side) -> None:
    ratio = ours.samples_per_s / peer.samples_per_s
    report.add("Forklight over TRL, samples/s", ratio, at_least=TARGET)
    report.add("TRL over Forklight, CPU time a sample", peer.cpu_ms / ours.cpu_ms)
    if ours.exam is None or peer.exam is None:
        return
    noise = 2 * math.sqrt(
        sum(each * (1 - each) for each in (ours.exam, peer.exam)) / (NUM_HELD_OUT * EXAM_SAMPLES)
    )
    notes = f"the target is TRL's {peer.exam:.3f} less two standard errors of the difference, {noise:.3f}"
    report.add("Forklight, held-out reward not lower", ours.exam, at_least=peer.exam - noise, notes=notes)


def _listed(figures: Mapping[str, float]) -> str:
    return ", ".join(
        f"{name} {value:.2f}"
        for name, value in sorted(figures.items(), key=lambda item: -item[1])
        if value >= 0.005
    )


def run_sides(report: Report, options: argparse.Namespace, folder: Path) -> None:
    task, sides = prepare(folder), dict[str, Side]()
    report.add(
        "both, held-out reward before", examine(task, task.start), notes=f"{SAMPLES_A_STEP} samples a step"
    )
    parts = options.parts.split(",")
    if "peer" in parts:
        shutil.rmtree(folder / "peer_final", ignore_errors=True)
        report.guard("TRL", lambda: _keep(sides, "peer", run_peer(report, task, options.steps)))
    if "ours" in parts:
        shutil.rmtree(folder / "ours", ignore_errors=True)
        runs: list[Run] = []
        report.guard(
            "Forklight",
            lambda: runs.append(
                run_ours(task, steps=options.steps, overrides=tuple(options.set), limit_s=LIMIT_S)
            ),
        )
        for run in runs:
            sides["ours"] = measure(run.marks, examine(task, run.final))
            show_ours(report, run, sides["ours"])
    if len(sides) == len(("ours", "peer")):
        compare(report, sides["ours"], sides["peer"])


def _keep(sides: dict[str, Side], name: str, side: Side | None) -> None:
    if side is not None:
        sides[name] = side


@contextlib.contextmanager
def chosen_folder(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.resolve()
    else:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=24, help="optimizer steps of 256 samples")
    parser.add_argument("--folder", type=Path, default=None, help="kept, and its cold start used again")
    parser.add_argument("--parts", default="peer,ours")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of our run file")
    parser.add_argument("--check", action="store_true", help="fail where a target is missed")
    options = parser.parse_args()
    if options.steps < 2 * SETTLING_STEPS:
        parser.error(
            f"--steps must be at least {2 * SETTLING_STEPS}: the first {SETTLING_STEPS} do not count"
        )
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, cores)  # children inherit it
    load = os.getloadavg()[0]
    note = f"{len(cores)} cores, load {load:.1f} before; {options.steps} steps, {time.strftime('%Y-%m-%d')}"
    report = Report("nano_loop", "cpu", note)
    with chosen_folder(options.folder) as folder:
        run_sides(report, options, folder)
    report.show()
    missed = [row.what for row in report.rows if row.ratio is not None and row.ratio < 1]
    return 1 if report.failed or (options.check and missed) else 0


if __name__ == "__main__":
    sys.exit(main())
