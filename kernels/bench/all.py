"""Every kernel benchmark, then the whole model: the table of kernels/README.md. Needs one NVIDIA GPU.

Each runs in a process of its own, so that one that fails or fills the memory costs its own rows only.
"""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = (
    ("kernels/bench/bench_lightning.py", "--million"),
    ("kernels/bench/bench_softmax.py",),
    ("kernels/bench/bench_moe.py",),
    ("kernels/bench/bench_head.py",),
    ("kernels/bench/bench_rows.py",),
    ("libs/model/bench_gpu.py", "--size", "small", "--parts", "train,decode,parity,peer"),
    ("libs/model/bench_gpu.py", "--size", "mini", "--parts", "parity"),
)


def main() -> int:
    failed = []
    for script, *options in BENCHMARKS:
        started = time.monotonic()
        print(f"\n===== {script} {' '.join(options)}", flush=True)
        done = subprocess.run([sys.executable, str(ROOT / script), *options], cwd=ROOT, check=False)
        print(f"===== {time.monotonic() - started:.0f} s, exit status {done.returncode}", flush=True)
        failed += [script] * (done.returncode != 0)
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall ran")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
