"""The run that is tortured: a random tiny model, every group trained on, a step about every second."""

from __future__ import annotations

from pathlib import Path

from forklight_cli.arithmetic import write_arithmetic

STEPS = 24

RUN_FILE = """
[run]
name = "chaos"
[prompts]
train = "{folder}/prompts.jsonl"
[sampling]
group_size = 4
max_new_tokens = 16
[recipe]
overlong_penalty = false
allow_deviation = true
[trainer]
steps = {steps}
groups_per_step = 4
updates_per_version = 2
learning_rate = 1e-4
pack_tokens = 2048
threads = 1
[buffer]
dynamic_sampling = false
max_staleness = 8
max_open_groups = 16
lease_s = 3
max_deliveries = 10
watchdog_s = 60
[rollout]
pods = 2
max_batch = 16
threads = 1
drain_s = 5
[evaluation]
every_versions = 0
[parity]
min_correlation = 0.9
"""


def write_short_run(folder: Path, *, steps: int = STEPS, extra: str = "") -> Path:
    """Data and run file; returns the run file."""
    folder.mkdir(parents=True, exist_ok=True)
    write_arithmetic(folder)
    run_file = folder / "chaos.toml"
    run_file.write_text(RUN_FILE.format(folder=folder, steps=steps) + extra)
    return run_file
