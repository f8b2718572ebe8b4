"""Sweeps of tiles for lightning attention and its decode step, run by `bench_lightning.py --tune`."""

from dataclasses import replace
from functools import partial
from itertools import product

import torch
from harness import DEVICE, attempt, median_ms
from lightning_cases import (
    BASE,
    BF16,
    DECODE_TARGETS_US,
    HEADS,
    PLAIN,
    SILU,
    SIZE,
    Call,
    decode_us,
    joined,
    ours,
    slopes,
)

from forklight_kernels.lightning_attention.triton_launch import Tiles
from forklight_kernels.lightning_decode.triton_gpu import DecodeTiles


def sweep(name: str, cases: dict[str, Call]) -> None:
    """Print every case, the best first; each call returns its own figure."""
    found = [(figure, label) for label, call in cases.items() if (figure := attempt(label, call)) is not None]
    for figure, label in sorted(found):
        print(f"  {name:28s} {figure:9.3f}  {label}", flush=True)
    torch.cuda.empty_cache()


def quick(call: Call) -> Call:
    return partial(median_ms, call, budget_s=0.1, warmup=1, max_repeats=10)


@torch.no_grad()
def tune_forward() -> None:
    parts, slopes_H, cases = joined(65536).chunk(3, dim=-1), slopes(), {}
    for sequences in (1, 4):
        for stages in (2, 3, 4):
            tiles = replace(BASE, num_stages=stages, segment_rows=0, activates_first=False)
            for name, form in (("plain", PLAIN), ("silu in loads", SILU)):
                label = f"{name}, stages {stages}, {sequences} sequences"
                cases[label] = quick(partial(ours, slopes_H, form, tiles, parts, sequences))
        tiles = replace(BASE, segment_rows=0)
        cases[f"silu first, {sequences} sequences"] = quick(
            partial(ours, slopes_H, SILU, tiles, parts, sequences)
        )
    sweep("64 heads, 64K, ms", cases)


@torch.no_grad()
def tune_few_heads() -> None:
    parts, slopes_H, cases = joined(131072, 8).chunk(3, dim=-1), slopes(8), {}
    for rows, columns, stages in (
        (64, 32, 3), (64, 32, 4), (64, 32, 6), (64, 64, 4), (128, 16, 4), (128, 32, 4), (64, 16, 6),
    ):  # fmt: skip
        tiles = replace(BASE, chain_rows=rows, chain_columns=columns, chain_stages=stages)
        cases[f"chain {rows} x {columns}, stages {stages}"] = quick(
            partial(ours, slopes_H, PLAIN, tiles, parts)
        )
    for segment_rows in (1024, 2048, 4096, 8192):
        for stages in (2, 3):
            tiles = replace(BASE, segment_rows=segment_rows, num_stages=stages)
            label = f"segments of {segment_rows}, stages {stages}"
            cases[label] = quick(partial(ours, slopes_H, PLAIN, tiles, parts))
    sweep("8 heads, 128K, ms", cases)


def tune_gradient() -> None:
    leaf, slopes_H = joined(65536).requires_grad_(), slopes()
    pull, cases = torch.randn(65536, HEADS, SIZE, device=DEVICE, dtype=BF16), {}
    for stages, rows in product((3, 4), (0, 2048, 8192)):
        tiles = replace(BASE, num_stages=stages, segment_rows=rows)

        def step(tiles: Tiles = tiles) -> None:
            torch.autograd.grad(ours(slopes_H, PLAIN, tiles, leaf.chunk(3, dim=-1)), leaf, pull)

        cases[f"stages {stages}, segments of {rows}"] = quick(step)
    sweep("64 heads, 64K, f+b ms", cases)


def tune_decode() -> None:
    for batch in DECODE_TARGETS_US:
        cases = {}
        for rows, stages, warps, close in (
            (64, 3, 4, 32), (64, 2, 4, 32), (32, 5, 4, 32), (32, 3, 4, 32), (64, 3, 8, 32), (64, 3, 4, 16),
        ):  # fmt: skip
            tiles = DecodeTiles(rows=rows, num_stages=stages, num_warps=warps, close_rows=close)
            label = f"rows {rows}, stages {stages}, warps {warps}, close {close}"
            cases[label] = partial(decode_us, batch, None, tiles)
        sweep(f"decode, batch {batch}, us", cases)


TUNES = {
    "forward": tune_forward,
    "gradient": tune_gradient,
    "few": tune_few_heads,
    "decode": tune_decode,
}
