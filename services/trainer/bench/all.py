"""Every benchmark of the trainer: the table of services/trainer/bench/README.md.

Each runs in a process of its own, so that one that fails or fills the memory costs its own rows only. What is
given on the command line goes to all of them. Without a GPU those that need one say so.
"""

# ruff: noqa: INP001, T201
from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

SCRIPTS = ("step_gpu.py", "gang_gpu.py", "publish.py", "checkpoint.py")


def main() -> int:
    failed = []
    for name in SCRIPTS:
        script = Path(__file__).with_name(name)
        started = time.monotonic()
        print(f"\n===== {name}", flush=True)
        done = subprocess.run([sys.executable, "-u", str(script), *sys.argv[1:]], check=False)
        print(f"===== {time.monotonic() - started:.0f} s", flush=True)
        if done.returncode:
            failed.append(f"{name}: exit status {done.returncode}")
    print("\n".join(["", *failed]) if failed else "\nall ran")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
