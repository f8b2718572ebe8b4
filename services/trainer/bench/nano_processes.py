"""Processes that `nano_loop.py` starts: our command line, and the CPU time of all that lives under one."""

# ruff: noqa: INP001
from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import paths
import psutil

ALL_FOLDERS = (
    *paths.FOLDERS,
    "libs/cli",
    *(f"services/{name}" for name in ("buffer", "rollout", "reward", "console")),
)
SERVICE = re.compile(r"-m forklight_(\w+)( (?:front|verifier|sandbox|judge))?")

sys.path += [str(paths.ROOT / folder) for folder in ALL_FOLDERS if str(paths.ROOT / folder) not in sys.path]


def environment() -> dict[str, str]:
    """Ours without GPUs, and with every package of the checkout importable behind what is there already."""
    folders = [os.environ.get("PYTHONPATH", ""), *(str(paths.ROOT / folder) for folder in ALL_FOLDERS)]
    importable = os.pathsep.join(filter(None, folders))
    return {**os.environ, "PYTHONPATH": importable, "CUDA_VISIBLE_DEVICES": "", "FORKLIGHT_DEVICE": "cpu"}


def forklight_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "forklight_cli", *arguments]


def run_forklight(log: Path, *arguments: str) -> None:
    """A command of ours to its end; RuntimeError with the end of its log where it fails."""
    with log.open("wb") as file:
        done = subprocess.run(
            forklight_command(*arguments), env=environment(), stdout=file, stderr=file, check=False
        )
    if done.returncode:
        raise RuntimeError(f"forklight {arguments[0]} ended with {done.returncode}:\n{read_tail(log)}")


def read_tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


def cpu_seconds(pid: int) -> dict[str, float]:
    """CPU seconds since their start of all that lives under a process, by service."""
    found: Counter[str] = Counter()
    for process in psutil.Process(pid).children(recursive=True) if psutil.pid_exists(pid) else ():
        try:
            times, words = process.cpu_times(), " ".join(process.cmdline())
            service = SERVICE.search(words)
            name = (service[1] + (service[2] or "")).replace(" ", "-") if service else process.name()
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        found[name] += times.user + times.system
    return dict(found)
