"""Our side of `nano_loop.py`: every service as `forklight up` starts it; what it does is read outside."""

# ruff: noqa: INP001
from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nano_processes import cpu_seconds, environment, forklight_command, read_tail
from nano_task import (
    BETAS,
    CEILING,
    EPS,
    GRAD_CLIP,
    GROUP_SIZE,
    LEARNING_RATE,
    SAMPLES_A_STEP,
    WARMUP_STEPS,
    WINDOW,
    Mark,
    Task,
)

LOOK_EVERY_S = 0.1
RUN_FILE = f"""
[run]
name = "nano-loop"
[sampling]
group_size = {GROUP_SIZE}
max_new_tokens = {WINDOW}
[recipe]
eps_high = {CEILING - 1}
overlong_penalty = false     # the peer's reward is the answer alone
allow_deviation = true       # for dynamic_sampling = false
[trainer]
groups_per_step = {SAMPLES_A_STEP // GROUP_SIZE}
updates_per_version = 1      # the peer samples every step with the newest weights
learning_rate = {LEARNING_RATE}
warmup_steps = {WARMUP_STEPS}
adam_beta1 = {BETAS[0]}
adam_beta2 = {BETAS[1]}
adam_eps = {EPS}
grad_clip = {GRAD_CLIP}
pack_tokens = 1280           # activations of so few tokens fit a core's cache (libs/model/README.md)
threads = 1                  # one core learns while the other samples: both are busy all the time
[buffer]
max_staleness = 2            # the default; lets sampling and learning overlap
max_open_groups = {2 * SAMPLES_A_STEP // GROUP_SIZE}    # two steps' worth: little lag
dynamic_sampling = false     # the peer has none: every sample counts once, on both sides
[rollout]
pods = 1                     # a second one would only share the core, with smaller batches
max_batch = {SAMPLES_A_STEP}
threads = 1
[evaluation]
every_versions = 0
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What came of it."""

    marks: list[Mark]
    stages: list[Mapping[str, float]]
    """Seconds of the trainer's stages, by step."""
    cpu_s: list[Mapping[str, float]]
    """By service since its start, at every step."""
    final: Path


def run_ours(task: Task, *, steps: int, overrides: tuple[str, ...], limit_s: float) -> Run:
    """Bring the system up, watch its steps, and let it end by itself."""
    folder, run_file = task.folder / "ours", task.folder / "ours.toml"
    run_file.write_text(RUN_FILE, encoding="utf-8")
    settings = (
        f'prompts.train="{task.data / "prompts.jsonl"}"',
        f'model.path="{task.start}"',
        f"trainer.steps={steps}",
        *overrides,
    )
    command = forklight_command("up", str(run_file), "--folder", str(folder))
    command += [word for setting in settings for word in ("--set", setting)]
    with (task.folder / "ours.log").open("wb") as log:
        child = subprocess.Popen(command, env=environment(), stdout=log, stderr=log)
        try:
            run = _watch(child, folder, limit_s)
        finally:
            _stop(child)
    if len(run.marks) < steps:
        tail = read_tail(task.folder / "ours.log")
        raise RuntimeError(
            f"{len(run.marks)} of {steps} steps in {limit_s:.0f} s; forklight up said:\n{tail}"
        )
    return run


def _watch(child: subprocess.Popen[bytes], folder: Path, limit_s: float) -> Run:
    """Until it ends: each new line of steps.jsonl with the CPU time of every service at that moment."""
    run = Run(marks=[], stages=[], cpu_s=[], final=folder / "final")
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        is_over = child.poll() is not None
        for line in _whole_lines(folder / "steps.jsonl")[len(run.marks) :]:
            record = json.loads(line)
            run.cpu_s.append(cpu_seconds(child.pid))
            run.stages.append(record["seconds"])
            run.marks.append(
                Mark(
                    step=record["step"],
                    time=record["time"],
                    cpu_s=sum(run.cpu_s[-1].values()),
                    num_samples=record["num_samples"],
                    reward=record["reward_mean"],
                    length=record["length_mean"],
                )
            )
        if is_over:
            break
        time.sleep(LOOK_EVERY_S)
    return run


def _whole_lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def _stop(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
