"""A whole training step on one GPU beside its peer, and the longest sample. Needs one NVIDIA GPU.

    python services/trainer/bench/step_gpu.py [--size small] [--parts packed,peer,long,profile] [--check]

`packed` and `peer` are the same 32 Ki tokens in 11 samples of 1 Ki to 8 Ki: ours one packed micro-batch, the
peer (transformers' MiniMax under TRL's CISPO loss, `peer_trl.py`) one sample after the other, unpadded. Both
end with AdamW. What is computed again is what the memory plan of a run would choose. Peers run first, in
the same process.
"""

# ruff: noqa: INP001
from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable

import paths  # noqa: F401
import torch
from harness import matmul_flops, require_gpu
from report import Report
from work import PACKED, draw_batch, learn, open_engine, settings_for, step_flops, with_step

from forklight_model.model import Recomputation
from forklight_model.sizes import SIZES
from forklight_trainer.memory import plan_recomputation

LONG = (81_920,)


def planned(size: str, pack_tokens: int) -> Recomputation | None:
    """What a run of this size with such packs would compute again on this GPU."""
    return plan_recomputation(settings_for(pack_tokens).trainer, SIZES[size], "cuda")


def seconds_a_call(call: Callable[[int], object], *, warmup: int = 2, repeats: int = 6) -> float:
    for place in range(warmup):
        call(place + 1)
    measured = []
    for place in range(repeats):
        torch.cuda.synchronize()
        started = time.perf_counter()
        call(warmup + place + 1)
        torch.cuda.synchronize()
        measured.append(time.perf_counter() - started)
    return statistics.median(measured)


def measure(size: str, lengths: tuple[int, ...], repeats: int) -> tuple[float, float]:
    """Seconds a step and peak GiB."""
    pack_tokens = sum(lengths)
    engine = open_engine(size, planned(size, pack_tokens))
    lengths = lengths if len(lengths) > 1 else (*lengths, *lengths)  # a group needs two rewards
    batch = draw_batch(lengths, engine.config.vocab_size)
    torch.cuda.reset_peak_memory_stats()
    seconds = seconds_a_call(
        lambda step: learn(engine, with_step(batch, step), pack_tokens), repeats=repeats, warmup=2
    )
    return seconds, torch.cuda.max_memory_allocated() / 2**30


def packed(report: Report, size: str, ceiling: float, peer_s: float | None) -> None:
    seconds, peak = measure(size, PACKED, 6)
    tokens = sum(PACKED)
    report.add(
        "packed 32 Ki, step", seconds * 1e3, "ms", notes=f"{tokens / seconds:,.0f} tokens/s, {peak:.1f} GiB"
    )
    share = step_flops(size, PACKED) / seconds / ceiling
    report.add(
        "packed 32 Ki, share of matmul rate", share, at_least=0.45, notes=f"{ceiling / 1e12:.0f} TFLOP/s"
    )
    if peer_s is not None:
        report.add("packed 32 Ki, peer's time over ours", peer_s / seconds, at_least=6.0)


def long(report: Report, size: str, ceiling: float) -> None:
    """Two samples of 80 Ki tokens, a pack each."""
    seconds, peak = measure(size, LONG, 3)
    flops = step_flops(size, (*LONG, *LONG))
    notes = (
        f"{2 * LONG[0] / seconds:,.0f} tokens/s, {peak:.1f} GiB, {planned(size, LONG[0]) or 'nothing again'}"
    )
    report.add("2 x 80 Ki, step", seconds * 1e3, "ms", notes=notes)
    report.add("2 x 80 Ki, share of matmul rate", flops / seconds / ceiling, at_least=0.35)


def profile(report: Report, size: str) -> None:
    engine = open_engine(size, planned(size, sum(PACKED)))
    batch = draw_batch(PACKED, engine.config.vocab_size)
    for step in (1, 2):
        learn(engine, with_step(batch, step), sum(PACKED))
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as found:
        learn(engine, with_step(batch, 3), sum(PACKED))
        torch.cuda.synchronize()
    table = found.key_averages().table(sort_by="self_cuda_time_total", row_limit=45, max_name_column_width=70)
    report.say(table)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="small")
    parser.add_argument("--parts", default="packed,peer,long")
    parser.add_argument("--check", action="store_true", help="fail where a target is missed")
    options = parser.parse_args()
    require_gpu()
    parts = options.parts.split(",")
    report = Report("trainer_step", "cuda", options.size)
    ceiling = matmul_flops()
    report.say(f"bf16 matmul of 8192 cubed: {ceiling / 1e12:.0f} TFLOP/s")
    peer_s: list[float] = []
    if "peer" in parts:
        from peer_trl import peer_step_seconds

        report.guard("peer", lambda: peer_s.append(peer_step_seconds(report, options.size, PACKED)))
        gc.collect()
        torch.cuda.empty_cache()
    if "packed" in parts:
        report.guard("packed", lambda: packed(report, options.size, ceiling, peer_s[0] if peer_s else None))
        gc.collect()
        torch.cuda.empty_cache()
    if "long" in parts:
        report.guard("long", lambda: long(report, options.size, ceiling))
    if "profile" in parts:
        report.guard("profile", lambda: profile(report, options.size))
    report.show()
    missed = [row.what for row in report.rows if row.ratio is not None and row.ratio < 1]
    return 1 if report.failed or (options.check and missed) else 0


if __name__ == "__main__":
    sys.exit(main())
