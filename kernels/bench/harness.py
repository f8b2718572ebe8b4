"""Timing, ceilings, memory, tables and peers for the kernel benchmarks. Needs one CUDA GPU.

Ours and a peer are timed in the same process; a peer that is missing or fails is a row that says so.
"""

import concurrent.futures
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch

DEVICE = "cuda"
FAILED_ROW = "  !! "
"""How the line of a row begins that could not be measured."""


def require_gpu() -> None:
    """Say at once what is missing, before minutes of imports and compiling."""
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs an NVIDIA GPU: torch.cuda.is_available() is False")


Call = Callable[[], object]
T = TypeVar("T")


def median_ms(call: Call, budget_s: float = 0.4, warmup: int = 2, max_repeats: int = 50) -> float:
    """Median milliseconds of a call by CUDA events, warm."""
    for _ in range(warmup):
        call()
    torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    torch.cuda.synchronize()
    once_s = max(time.perf_counter() - started, 1e-6)
    repeats = max(3, min(max_repeats, int(budget_s / once_s)))
    events = [
        (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)
    ]
    for begin, end in events:
        begin.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in events)


def graph_ms(calls: Sequence[Call]) -> float:
    """Median milliseconds a call of a CUDA graph holding one of each.

    Give it calls over different buffers, so that their data does not stay in the L2 cache in between.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return median_ms(graph.replay, max_repeats=30) / len(calls)


def peak_gib(call: Call) -> float:
    """Peak device memory above what was allocated before the call."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**30


@cache
def copy_bytes_per_s() -> float:
    """Bandwidth of a large copy, bytes read plus bytes written."""
    source = torch.randn(2**30, device=DEVICE, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    return 2 * source.nbytes / (median_ms(lambda: target.copy_(source)) * 1e-3)


@cache
def matmul_flops() -> float:
    """bf16 rate of an 8192^3 product of random numbers."""
    left = torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    right = torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    return 2 * 8192**3 / (median_ms(lambda: left @ right) * 1e-3)


def relative_error(got: torch.Tensor, truth: torch.Tensor) -> float:
    """Norm of the difference over the norm of the truth."""
    return ((got.double() - truth.double()).norm() / truth.double().norm()).item()


@dataclass
class Table:
    """Rows of one benchmark: printed as they come, as a whole at the end, and to $OUT as JSON."""

    name: str
    columns: tuple[str, ...]
    note: str = ""
    rows: list[tuple[object, ...]] = field(default_factory=list)

    def add(self, *values: object) -> None:
        self.rows.append(values)
        print("  " + " | ".join(_shown(value) for value in values), flush=True)

    def show(self) -> None:
        print(f"\n### {self.name}\n{machine()}; copy {copy_bytes_per_s() / 1e12:.2f} TB/s, ", end="")
        print(f"bf16 8192^3 {matmul_flops() / 1e12:.0f} TFLOP/s{'; ' + self.note if self.note else ''}")
        print("| " + " | ".join(self.columns) + " |\n|" + " --- |" * len(self.columns))
        for row in self.rows:
            print("| " + " | ".join(_shown(value) for value in row) + " |")
        folder = os.environ.get("OUT")
        if folder:
            rows = [[_shown(value) for value in row] for row in self.rows]
            content = {"machine": machine(), "columns": self.columns, "rows": rows}
            file_name = re.sub(r"\W+", "_", self.name) + ".json"
            Path(folder, file_name).write_text(json.dumps(content, indent=1), encoding="utf-8")


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2e}" if value and (abs(value) < 1e-3 or abs(value) >= 1e5) else f"{value:.4g}"
    return str(value)


def machine() -> str:
    import triton

    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}"


def attempt(label: str, call: Callable[[], T]) -> T | None:
    """The call's result, or None after printing why it failed: one failure must not cost the other rows."""
    try:
        return call()
    except Exception as error:
        torch.cuda.empty_cache()
        first = next(iter(str(error).strip().splitlines()), "")
        print(f"{FAILED_ROW}{label}: {type(error).__name__}: {first[:300]}", flush=True)
        return None


def tune_in_parallel(num_threads: int = 16) -> None:
    """Compile all configurations of a peer's Triton autotuner at once; its own timing still chooses."""
    from triton.runtime import autotuner

    tuner = autotuner.Autotuner
    if hasattr(tuner, "forklight_original_run"):
        return
    original = tuner.run
    tuner.forklight_original_run = original

    def run(self, *args, **kwargs):  # Triton's own signature
        if len(self.configs) > 1:
            named = dict(zip(self.arg_names, args, strict=False))
            self.nargs = named
            known = {k: v for k, v in {**named, **kwargs}.items() if k in self.arg_names}
            dtypes = [str(value.dtype) for value in known.values() if hasattr(value, "dtype")]
            if tuple([known[k] for k in self.keys if k in known] + dtypes) not in self.cache:
                compile_kwargs = {**kwargs, "warmup": True}

                def compile_one(config: object) -> None:
                    attempt("tuning", lambda: self.fn.run(*args, **compile_kwargs, **config.all_kwargs()))

                with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
                    list(pool.map(compile_one, self.prune_configs(kwargs)))
        return original(self, *args, **kwargs)

    tuner.run = run
