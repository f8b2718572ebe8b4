"""Every kernel benchmark, then the whole model: the table of kernels/README.md. Needs one NVIDIA GPU.

Each runs in a process of its own, so that one that fails or fills the memory costs its own rows only. A row
of ours that fails fails the whole; a peer that is not installed does not.
"""

import subprocess
import sys
import time
from pathlib import Path

from harness import FAILED_ROW, require_gpu

ROOT = Path(__file__).resolve().parents[2]
PEERS = ("fla", "vLLM", "liger", "SDPA", "torch", "peer")
BENCHMARKS = (
    ("kernels/bench/bench_lightning.py", "--million"),
    ("kernels/bench/bench_softmax.py",),
    ("kernels/bench/bench_moe.py",),
    ("kernels/bench/bench_head.py",),
    ("kernels/bench/bench_sampler.py",),
    ("kernels/bench/bench_rows.py",),
    ("libs/model/bench_gpu.py", "--size", "small", "--parts", "train,decode,parity,peer"),
    ("libs/model/bench_gpu.py", "--size", "mini", "--parts", "parity"),
)


def run_benchmark(script: str, options: list[str]) -> list[str]:
    """Show its output line by line as it comes; returns what went wrong."""
    command = [sys.executable, "-u", str(ROOT / script), *options]
    wrong = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            label = line.removeprefix(FAILED_ROW).partition(":")[0]
            if line.startswith(FAILED_ROW) and not any(peer in label for peer in PEERS):
                wrong.append(line.strip())
    return [*wrong, f"exit status {process.returncode}"] if process.returncode else wrong


def main() -> int:
    require_gpu()
    failed = []
    for script, *options in BENCHMARKS:
        started = time.monotonic()
        print(f"\n===== {script} {' '.join(options)}", flush=True)
        failed += [f"{script}: {what}" for what in run_benchmark(script, options)]
        print(f"===== {time.monotonic() - started:.0f} s", flush=True)
    print("\n".join(["", *failed]) if failed else "\nall ran")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
