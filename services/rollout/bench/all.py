"""Every benchmark of the rollout engine: the table of services/rollout/README.md. Needs one NVIDIA GPU.

Each runs in a process of its own, so that one that fails or fills the memory costs its own rows only. What is
given on the command line goes to all of them.
"""

# ruff: noqa: INP001, T201
from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import paths  # noqa: F401
from engine_gpu import PARTS
from harness import require_gpu

SCRIPT = Path(__file__).with_name("engine_gpu.py")


def main() -> int:
    if "cpu" not in sys.argv:
        require_gpu()
    failed = []
    for part in PARTS:
        started = time.monotonic()
        print(f"\n===== {part}", flush=True)
        done = subprocess.run([sys.executable, "-u", str(SCRIPT), part, *sys.argv[1:]], check=False)
        print(f"===== {time.monotonic() - started:.0f} s", flush=True)
        if done.returncode:
            failed.append(f"{part}: exit status {done.returncode}")
    print("\n".join(["", *failed]) if failed else "\nall ran")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
