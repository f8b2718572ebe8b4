"""One seeded run with kills, from start to audit. `make chaos` prints a line for each of 20 seeds."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.chaos.harness import Kill, RunningSystem, audit, kill_plan
from tests.chaos.short_run import STEPS, write_short_run

VICTIMS = [
    "buffer",
    "rollout-0",
    "rollout-1",
    "reward-front",
    "reward-verifier",
    "reward-sandbox",
    "trainer",
    "redis",
]
RUN_DEADLINE_S = 240.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Torture:
    """What a tortured run came to."""

    seed: int
    kills: tuple[Kill, ...]
    seconds: float
    steps: tuple[int, ...]
    trainer_starts: tuple[int, ...]
    """Last learned step of every checkpoint a trainer started from."""
    report: dict[str, object]

    def trainer_lost(self) -> int:
        """The most recorded optimizer steps that a killed trainer took with it."""
        killed_at = [kill.at_step for kill in self.kills if kill.victim == "trainer"]
        lost = [at - start for at, start in zip(killed_at, self.trainer_starts[1:], strict=True)]
        return max([0, *lost])


def torture(folder: Path, seed: int) -> Torture:
    """Run, kill every victim once, wait for the end, audit."""
    run_file = write_short_run(folder / "data")
    system = RunningSystem(run_file, folder / "run")
    try:
        kills = []
        system.wait_until(lambda: system.step() >= 1, deadline_s=120, what="the first step")
        for step, pause_s, victim in kill_plan(seed, VICTIMS, last_step=STEPS - 6):
            reached = partial(has_reached, system, step)
            system.wait_until(reached, deadline_s=RUN_DEADLINE_S, what=f"step {step}")
            time.sleep(pause_s)
            kills.append(system.kill(victim))
        code = system.wait_end(deadline_s=RUN_DEADLINE_S)
        if code != 0:
            raise AssertionError(f"the run ended with code {code}\n{system.tail()}")
        steps = tuple(int(step["step"]) for step in system.steps())
        return Torture(
            seed=seed,
            kills=tuple(kills),
            seconds=time.monotonic() - system.started,
            steps=steps,
            trainer_starts=trainer_starts(system.folder),
            report=audit(system.folder),
        )
    finally:
        system.stop()


def has_reached(system: RunningSystem, step: int) -> bool:
    return system.step() >= step


def trainer_starts(folder: Path) -> tuple[int, ...]:
    """From the trainer's log."""
    lines = [
        json.loads(line)
        for line in (folder / "logs" / "trainer.log").read_text().splitlines()
        if line[:1] == "{"
    ]
    return tuple(line["step"] for line in lines if line["message"] == "trainer started")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="number of seeds")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    arguments = parser.parse_args()
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            result = torture(Path(folder), seed)
        order = " ".join(f"{kill.victim}@{kill.at_step}" for kill in result.kills)
        print(
            f"seed {seed}: {result.seconds:.0f} s, clean audit, last step {max(result.steps)}, "
            f"finished steps lost {result.trainer_lost()}, kills: {order}",
            flush=True,
        )


if __name__ == "__main__":
    main()
