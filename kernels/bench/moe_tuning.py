"""Sweeps of tiles for the product and the experts, run by `bench_moe.py --tune`.

Legend: T tokens, D width, N width out, E experts, K experts a token, I expert width.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from harness import Table, attempt, median_ms
from moe_cases import DENSE_SHAPES, MINIMAX, SMALL, Case, dense_calls, free, make_case, randn, timed_decode
from torch.nn.functional import linear

from forklight_kernels.dense import triton_gpu as dense_gpu
from forklight_kernels.moe_experts import triton_gpu as experts_gpu
from forklight_kernels.moe_experts.triton_plan import plan_experts
from forklight_kernels.moe_experts.triton_products import gate_and_up, matrix_gradient, rows_by_experts
from forklight_kernels.moe_experts.triton_rows import gather_rows
from forklight_kernels.triton_tiles import Tile


def tune_dense() -> None:
    table = Table(
        name="dense tiles", columns=("T", "D", "N", "cuBLAS ms", "best ms", "ratio", "best tile", "next")
    )
    for rows in (1, 16, 64, 256, 2048, 8192):
        for shape in DENSE_SHAPES:
            tiles = stream_candidates(rows) if rows <= 64 else compute_candidates()
            found = sorted(
                (
                    (ms, tile)
                    for tile in tiles
                    if (ms := attempt(f"{tile}", partial(dense_with, rows, shape, tile)))
                ),
                key=lambda each: each[0],
            )
            peer = dense_calls(rows, shape, linear)
            if found:
                second = f"{found[1][0]:.4g} {shown(found[1][1])}" if len(found) > 1 else None
                table.add(rows, *shape, peer, found[0][0], peer / found[0][0], shown(found[0][1]), second)
    table.show()


def dense_with(rows: int, shape: tuple[int, int], tile: Tile) -> float:
    return dense_calls(rows, shape, lambda x, w: dense_gpu.dense(x, w, None, torch.bfloat16, tile))


def stream_candidates(rows: int) -> Iterator[Tile]:
    height = next(height for height in (16, 32, 64) if height >= rows)
    for columns, depth, warps, stages, programs in (
        (16, 256, 2, 6, 2),
        (32, 128, 4, 6, 2),
        (32, 256, 4, 5, 2),
        (32, 256, 4, 8, 1),
        (64, 128, 4, 5, 2),
        (64, 256, 4, 6, 1),
        (128, 128, 4, 6, 1),
    ):
        yield Tile(
            rows=height, columns=columns, depth=depth, num_warps=warps, num_stages=stages, programs=programs
        )
        if height < 64 and columns in {32, 64}:  # the asynchronous matrix unit: more rows, a shorter chain
            yield Tile(rows=64, columns=columns, depth=128, num_warps=4, num_stages=stages, programs=programs)


def compute_candidates() -> Iterator[Tile]:
    for tile, _ in dense_gpu.COMPUTE_TILES:
        yield tile
    large = dense_gpu.COMPUTE_TILES[0][0]
    yield replace(large, num_stages=3)
    yield replace(large, group=8)
    yield Tile(rows=128, columns=128, depth=64, num_warps=4, num_stages=3, programs=2)
    yield Tile(rows=64, columns=256, depth=64, num_warps=4, num_stages=4, parts=2)


def shown(tile: Tile) -> str:
    sizes = f"{tile.rows}x{tile.columns}x{tile.depth}"
    return f"{sizes} w{tile.num_warps} s{tile.num_stages} p{tile.programs} parts{tile.parts} g{tile.group}"


def tune_decode() -> None:
    table = Table(name="decode tiles", columns=("size", "T", "product", "tile", "ms", "TB/s"))
    for name, size in (("m1", MINIMAX), ("small", SMALL)):
        like = make_case(size, 1)
        for tokens in (16, 64, 256):
            case = make_case(size, tokens, like)
            for rows in (16, 32, 64):
                attempt(
                    f"{name} {tokens} {rows}", partial(tune_decode_rows, table, (name, tokens), case, rows)
                )
            del case
        del like
        free()
    table.show()


def tune_decode_rows(table: Table, names: tuple[str, int], case: Case, rows: int) -> None:
    num_experts, inner, width = case.w2.shape
    plan = plan_experts(case.experts, num_experts, rows)
    hidden, hit_bytes = randn(plan.num_places, inner), case.num_hit * inner * width * 2
    for columns, depth, stages, programs in (
        (32, 128, 5, 2),
        (64, 64, 5, 2),
        (64, 128, 4, 2),
        (64, 128, 6, 1),
        (128, 64, 4, 2),
        (128, 128, 4, 1),
    ):
        tile = Tile(
            rows=rows, columns=columns, depth=depth, num_warps=4, num_stages=stages, programs=programs
        )
        ms = attempt(
            "up",
            lambda t=tile: timed_decode(partial(gate_and_up, case.x, case.w13, plan, t, None, gathers=True)),
        )
        if ms:
            table.add(*names, "up", shown(tile), ms, 2 * hit_bytes / ms / 1e9)
        wide = replace(tile, columns=2 * columns)
        ms = attempt("down", lambda t=wide: timed_decode(partial(rows_by_experts, hidden, case.w2, plan, t)))
        if ms:
            table.add(*names, "down", shown(wide), ms, hit_bytes / ms / 1e9)


def tune_training(tokens: int = 32768) -> None:
    table = Table(name="training tiles", columns=("size", "product", "tile", "ms", "TFLOP/s"))
    for name, size in (("m1", MINIMAX), ("small", SMALL)):
        attempt(f"tune training {name}", partial(tune_training_rows, table, name, make_case(size, tokens)))
        free()
    table.show()


def tune_training_rows(table: Table, name: str, case: Case) -> None:
    num_experts, inner, width = case.w2.shape
    plan = plan_experts(case.experts, num_experts, 128)
    x = gather_rows(case.x, plan)
    hidden = gate_and_up(x, case.w13, plan, experts_gpu.TRAINING_TILES.up, None, gathers=False)
    single = 2 * case.experts.numel() * width * inner
    large = experts_gpu.TRAINING_TILES.down
    for tile in (
        large,
        replace(large, num_stages=3),
        replace(large, group=8),
        replace(large, columns=128, num_stages=5, parts=1),
    ):
        narrow = replace(tile, columns=tile.columns // 2, parts=1)
        calls = {
            "up": (narrow, partial(gate_and_up, x, case.w13, plan, narrow, None, gathers=False), 2 * single),
            "down": (tile, partial(rows_by_experts, hidden, case.w2, plan, tile), single),
            "gradient of w2": (tile, partial(matrix_gradient, hidden, x, plan, tile), single),
        }
        for product, (used, call, flops) in calls.items():
            ms = attempt(product, lambda c=call: median_ms(c, budget_s=0.1, warmup=1))
            if ms:
                table.add(name, product, shown(used), ms, flops / ms / 1e9)


TUNES = {"decode": tune_decode, "dense": tune_dense, "training": tune_training}
