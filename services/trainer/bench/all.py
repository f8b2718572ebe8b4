"""Every benchmark of the trainer: the table of services/trainer/bench/README.md.

    python services/trainer/bench/all.py [--only nano_loop.py,...] [--check]

Each runs in a process of its own, so that one that fails or fills the memory costs its own rows only. Those
that need a GPU are left out where there is none, and a line says so.
"""

# ruff: noqa: INP001, T201
from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One benchmark and how it is called here."""

    name: str
    needs_gpu: bool = False
    has_targets: bool = True
    """It knows --check."""
    without_gpu: tuple[str, ...] = ()
    """Options where there is no GPU."""


SCRIPTS = (
    Script(name="step_gpu.py", needs_gpu=True),
    Script(name="gang_gpu.py", needs_gpu=True),
    Script(name="publish.py", without_gpu=("--size", "mini")),
    Script(name="checkpoint.py", has_targets=False),
    Script(name="start_memory.py", has_targets=False),
    Script(name="nano_loop.py"),
)


def run(script: Script, *, checks: bool, has_gpu: bool) -> int:
    """Its exit status; 0 where it is left out."""
    if script.needs_gpu and not has_gpu:
        print("left out: it needs an NVIDIA GPU, and torch.cuda.is_available() is False", flush=True)
        return 0
    options = () if has_gpu else script.without_gpu
    command = [sys.executable, "-u", str(Path(__file__).with_name(script.name)), *options]
    command += ["--check"] if checks and script.has_targets else []
    return subprocess.run(command, check=False).returncode


def main() -> int:
    names = [script.name for script in SCRIPTS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default=",".join(names), help=f"some of {', '.join(names)}")
    parser.add_argument("--check", action="store_true", help="fail where a target is missed")
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := sorted(set(chosen) - set(names)):
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(names)}")
    has_gpu, failed = torch.cuda.is_available(), []
    for script in SCRIPTS:
        if script.name not in chosen:
            continue
        started = time.monotonic()
        print(f"\n===== {script.name}", flush=True)
        status = run(script, checks=options.check, has_gpu=has_gpu)
        print(f"===== {time.monotonic() - started:.0f} s", flush=True)
        if status:
            failed.append(f"{script.name}: exit status {status}")
    print("\n".join(["", *failed]) if failed else "\nall ran")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
