"""The product on a GPU: a persistent kernel over tensor maps, its tiles by shape, its gradient by torch.mm.

The forward bits of a row are the same for every number of rows; the backward pass owes only determinism.
Legend: T tokens, D width in, N width out.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from forklight_kernels.gradient import Context, needs_gradient
from forklight_kernels.launch import early_start, num_multiprocessors, prepare_launch
from forklight_kernels.residual import Residual
from forklight_kernels.triton_order import follow
from forklight_kernels.triton_tiles import (
    Tile,
    fit_stages,
    halves,
    mappable,
    mappable_rows,
    place_of_tile,
    store_block,
    tensor_map,
)

EXACT_TILE = Tile(rows=32, columns=64, depth=32, num_warps=4, num_stages=2)
"""fp32 operands: no matrix unit multiplies them exactly, so this is for tests and truth runs."""

FEWEST_ROWS = 16
"""The height of the lowest tile."""

FEW_ROWS = 64
"""Up to here the weight's bytes are the cost, and a tile is chosen so that all multiprocessors stream it."""

ONE_WAVE_TILES = (
    Tile(rows=16, columns=32, depth=256, num_warps=2, num_stages=3, programs=2),
    Tile(rows=16, columns=64, depth=256, num_warps=4, num_stages=4),
)
ONE_WAVE_HIGH_TILES = (
    Tile(rows=64, columns=32, depth=128, num_warps=4, num_stages=6),
    Tile(rows=64, columns=64, depth=128, num_warps=4, num_stages=5),
)
"""Where each multiprocessor gets at most one tile: the narrowest with which that is so. For 17 to 32 rows the
tiles below are faster: half of a high tile would be empty."""

STREAM_TILES = (
    Tile(rows=16, columns=64, depth=128, num_warps=4, num_stages=5, programs=2),
    Tile(rows=16, columns=32, depth=256, num_warps=4, num_stages=5, programs=2),
    Tile(rows=16, columns=16, depth=256, num_warps=2, num_stages=6, programs=2),
    Tile(rows=32, columns=64, depth=128, num_warps=4, num_stages=4, programs=2),
    Tile(rows=32, columns=32, depth=256, num_warps=4, num_stages=3, programs=2),
    Tile(rows=32, columns=16, depth=256, num_warps=2, num_stages=4, programs=2),
    Tile(rows=64, columns=64, depth=128, num_warps=4, num_stages=3, programs=2),
    Tile(rows=64, columns=32, depth=128, num_warps=4, num_stages=4, programs=2),
)
"""For few rows, widest first: the widest that still fills the multiprocessors is taken."""

COMPUTE_TILES = (
    (Tile(rows=128, columns=256, depth=64, num_warps=8, num_stages=4, parts=2), 1.0),
    (Tile(rows=128, columns=128, depth=64, num_warps=8, num_stages=5), 0.85),
    (Tile(rows=64, columns=128, depth=64, num_warps=4, num_stages=4, programs=2), 0.75),
    (Tile(rows=64, columns=64, depth=128, num_warps=4, num_stages=3, programs=2), 0.55),
)
"""For many rows, each with its rate relative to the largest: the one whose waves take least time is taken."""


def dense(
    x_TD: Tensor,
    weight_ND: Tensor,
    residual: Residual | None,
    out_dtype: torch.dtype,
    tile: Tile | None = None,
) -> Tensor:
    residual_TN = None if residual is None else residual.x_TD
    if needs_gradient(x_TD, weight_ND, residual_TN):
        scales = (1.0, 1.0) if residual is None else (residual.alpha, residual.beta)
        result: Tensor = _Dense.apply(x_TD, weight_ND, residual_TN, scales, (out_dtype, tile))
        return result
    return multiply(x_TD, weight_ND, residual, out_dtype, tile)


def multiply(
    x_TD: Tensor,
    weight_ND: Tensor,
    residual: Residual | None,
    out_dtype: torch.dtype,
    tile: Tile | None = None,
    out_TN: Tensor | None = None,
) -> Tensor:
    """The forward product alone. `out_TN`, if given, is dense and of a width that a tensor map takes."""
    (num_rows, depth), width = x_TD.shape, len(weight_ND)
    if num_rows == 0 or width == 0:
        return x_TD.new_empty(num_rows, width, dtype=out_dtype)
    if out_TN is None:
        out_TN = mappable_rows(x_TD, num_rows, width, out_dtype)
    tile = tile or choose_tile(num_rows, width, x_TD.dtype, num_multiprocessors(x_TD))
    tile = _fit(tile, x_TD, out_TN, residual is not None)
    prepare_launch(x_TD)
    num_tiles = _num_tiles(num_rows, width, tile)
    part = (tile.rows, tile.columns // tile.parts)
    out_map = tensor_map(out_TN, part)
    _dense_kernel[(min(num_tiles, tile.programs * num_multiprocessors(x_TD)),)](
        tensor_map(mappable(x_TD), (tile.rows, tile.depth)),
        tensor_map(mappable(weight_ND), (tile.columns, tile.depth)),
        out_map if residual is None else tensor_map(mappable(residual.x_TD), part),
        out_map,
        num_rows,
        width,
        depth,
        1.0 if residual is None else float(residual.alpha),
        1.0 if residual is None else float(residual.beta),
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        DEPTH=tile.depth,
        PARTS=tile.parts,
        GROUP=tile.group,
        HAS_RESIDUAL=residual is not None,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        **early_start(x_TD),
    )
    return out_TN.contiguous()


@lru_cache(maxsize=4096)
def choose_tile(num_rows: int, width: int, dtype: torch.dtype, num_processors: int) -> Tile:
    """The tile for this shape. Any tile gives the same bits."""
    if dtype == torch.float32:
        return EXACT_TILE
    one_wave = _one_wave_tile(num_rows, width, num_processors)
    if one_wave is not None:
        return one_wave
    if num_rows <= FEW_ROWS:
        return _stream_tile(num_rows, width, num_processors)
    return min(COMPUTE_TILES, key=lambda entry: _relative_time(num_rows, width, entry, num_processors))[0]


def _num_tiles(num_rows: int, width: int, tile: Tile) -> int:
    return int(triton.cdiv(num_rows, tile.rows) * triton.cdiv(width, tile.columns))


def _fit(tile: Tile, x_TD: Tensor, out_TN: Tensor, has_residual: bool) -> Tile:
    block = tile.rows * tile.columns // tile.parts
    stage_bytes = (tile.rows + tile.columns) * tile.depth * x_TD.element_size()
    return fit_stages(tile, stage_bytes, block * (out_TN.element_size() + has_residual * x_TD.element_size()))


def _one_wave_tile(num_rows: int, width: int, num_processors: int) -> Tile | None:
    if FEWEST_ROWS < num_rows <= FEW_ROWS // 2:
        return None
    tiles = ONE_WAVE_TILES if num_rows <= FEWEST_ROWS else ONE_WAVE_HIGH_TILES
    return next((tile for tile in tiles if _num_tiles(num_rows, width, tile) <= num_processors), None)


def _stream_tile(num_rows: int, width: int, num_processors: int) -> Tile:
    height = next(tile.rows for tile in STREAM_TILES if tile.rows >= num_rows)
    candidates = [tile for tile in STREAM_TILES if tile.rows == height]
    filling = (tile for tile in candidates if triton.cdiv(width, tile.columns) >= 0.9 * num_processors)
    return next(filling, candidates[-1])


def _relative_time(num_rows: int, width: int, entry: tuple[Tile, float], num_processors: int) -> float:
    tile, rate = entry
    waves = triton.cdiv(_num_tiles(num_rows, width, tile), num_processors * tile.programs) * tile.programs
    return int(waves) * tile.rows * tile.columns / rate


class _Context(Context):
    needs_input_grad: tuple[bool, ...]
    scales: tuple[float, float]


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        x_TD: Tensor,
        weight_ND: Tensor,
        residual_TN: Tensor | None,
        scales: tuple[float, float],
        choice: tuple[torch.dtype, Tile | None],
    ) -> Tensor:
        ctx.save_for_backward(x_TD, weight_ND)
        ctx.scales = scales
        residual = None
        if residual_TN is not None:
            residual = Residual(x_TD=residual_TN, alpha=scales[0], beta=scales[1])
        return multiply(x_TD, weight_ND, residual, *choice)

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weight_ND = ctx.saved_tensors
        (alpha, beta), (needs_x, needs_weight, needs_residual, *_) = ctx.scales, ctx.needs_input_grad
        dout_TN = gradients[0].to(x_TD.dtype)
        return (
            _scaled_mm(beta, dout_TN, weight_ND) if needs_x else None,
            _scaled_mm(beta, dout_TN.t(), x_TD) if needs_weight else None,
            dout_TN * alpha if needs_residual else None,
            None,
            None,
        )


def _scaled_mm(factor: float, left: Tensor, right: Tensor) -> Tensor:
    """The factor joins the sums before they are rounded."""
    if factor == 1.0:
        return torch.mm(left, right)
    # With beta = 0 torch ignores what the first argument holds.
    return torch.addmm(left.new_empty(()), left, right, beta=0, alpha=factor)


@triton.jit(do_not_specialize=["T"])
def _dense_kernel(
    X,
    WEIGHT,
    RESIDUAL,
    OUT,
    T,
    N,
    D,
    alpha,
    beta,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PARTS: tl.constexpr,
    GROUP: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    EARLY: tl.constexpr,
):
    follow(EARLY)
    num_m, num_n = tl.cdiv(T, ROWS), tl.cdiv(N, COLUMNS)
    for tile in tl.range(tl.program_id(0), num_m * num_n, tl.num_programs(0), flatten=True):
        place_m, place_n = place_of_tile(tile, num_m, num_n, GROUP)
        row, column = place_m * ROWS, place_n * COLUMNS
        total = tl.zeros([ROWS, COLUMNS], tl.float32)
        for k in range(0, D, DEPTH):
            total = tl.dot(X.load([row, k]), WEIGHT.load([column, k]).T, total, input_precision="ieee")
        if HAS_RESIDUAL:
            _store_with_residual(RESIDUAL, OUT, row, column, total, alpha, beta, PARTS)
        else:
            store_block(OUT, row, column, total, PARTS)


@triton.jit
def _store_with_residual(RESIDUAL, OUT, row, column, total, alpha, beta, PARTS: tl.constexpr):
    if PARTS == 1:
        _store_sum(RESIDUAL, OUT, row, column, total, alpha, beta)
    else:
        left, right = halves(total)
        _store_sum(RESIDUAL, OUT, row, column, left, alpha, beta)
        _store_sum(RESIDUAL, OUT, row, column + total.shape[1] // 2, right, alpha, beta)


@triton.jit
def _store_sum(RESIDUAL, OUT, row, column, total, alpha, beta):
    # An explicit fma: otherwise each compilation may contract the sum or not, in its own way.
    residual = RESIDUAL.load([row, column]).to(tl.float32) * alpha
    OUT.store([row, column], tl.fma(total, tl.full(total.shape, beta, tl.float32), residual).to(OUT.dtype))
