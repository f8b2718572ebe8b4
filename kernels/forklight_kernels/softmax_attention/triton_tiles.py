"""Which rows a program owns, how large a tile is for which shape, and the descriptors of packed rows (host).

Legend: T tokens, H heads, G key heads, D head size, N tiles.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from forklight_kernels.softmax_attention.blocks import KEY_GRID, KeyGrid


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """Rows that a program owns, and how it walks the other side."""

    rows: int
    step: int = KEY_GRID.block
    """Rows of the other side taken at once (backward only: the forward's are the contract's)."""
    warps: int
    stages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Tiles of the forward and the two backward kernels. Bits of the forward depend on the grid only."""

    forward: Tile
    key_gradient: Tile
    query_gradient: Tile
    grid: KeyGrid = KEY_GRID


_HALF = Tuning(
    forward=Tile(rows=128, warps=8, stages=3),
    key_gradient=Tile(rows=128, step=64, warps=8, stages=2),
    query_gradient=Tile(rows=128, step=64, warps=8, stages=2),
)
_HALF_SHORT = Tuning(
    forward=Tile(rows=64, warps=4, stages=2),
    key_gradient=Tile(rows=64, step=32, warps=4, stages=3),
    query_gradient=Tile(rows=64, step=64, warps=4, stages=2),
)
_FLOAT = Tuning(
    forward=Tile(rows=16, warps=8, stages=1),
    key_gradient=Tile(rows=16, step=16, warps=8, stages=1),
    query_gradient=Tile(rows=16, step=16, warps=8, stages=1),
)
SHORT_LENGTH = 64
"""Sequences up to here fill half of a large tile at most."""


def choose_tuning(dtype: torch.dtype, longest: int) -> Tuning:
    """The tiles for these inputs. fp32 products run without the tensor cores and need small ones."""
    if dtype == torch.float32:
        return _FLOAT
    return _HALF_SHORT if longest <= SHORT_LENGTH else _HALF


class TileOrder(StrEnum):
    """Programs start in this order, so that the longest do not start last."""

    LATE_ROWS_FIRST = "late_rows_first"
    """Query rows: late ones see most keys."""
    EARLY_ROWS_FIRST = "early_rows_first"
    """Key rows: early ones are seen by most queries."""


def padded_length(length: int) -> int:
    """Places of a sequence among the statistics: its blocks start on 16 bytes there, as bulk copies want."""
    return -(-length // 4) * 4


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def row_tiles(offsets: tuple[int, ...], rows: int, order: TileOrder, device: torch.device) -> Tensor:
    """[N, 5] int32: first row; end, start and number of its sequence; what leads from row to statistics."""
    tiles = []
    stats_start = 0
    for sequence, (start, end) in enumerate(pairwise(offsets)):
        tiles += [(first, end, start, sequence, stats_start - start) for first in range(start, end, rows)]
        stats_start += padded_length(end - start)
    if order is TileOrder.LATE_ROWS_FIRST:
        tiles.sort(key=lambda tile: tile[2] - tile[0])
    else:
        tiles.sort(key=lambda tile: tile[0] - tile[1])
    table = torch.tensor(tiles, dtype=torch.int32).view(-1, 5)
    # From pinned memory, so that nobody waits for the copy.
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table.to(device)


def can_describe(x: Tensor) -> bool:
    """Whether bulk copies can read it as it lies: 16-byte aligned, last dim dense."""
    unit = 16 // x.element_size()
    outer = [stride for stride, size in zip(x.stride()[:-1], x.shape[:-1], strict=True) if size > 1]
    return x.data_ptr() % 16 == 0 and x.stride(-1) == 1 and all(s > 0 and s % unit == 0 for s in outer)


def describable(x: Tensor) -> Tensor:
    """The tensor itself, or a dense copy if it lies askew."""
    return x if can_describe(x) else x.clone(memory_format=torch.contiguous_format)


def outer_strides(x: Tensor) -> list[int]:
    """Strides of all dims but the last; those of dims of size 1 say nothing and become something aligned."""
    return [
        stride if size > 1 else x.shape[-1]
        for stride, size in zip(x.stride()[:-1], x.shape[:-1], strict=True)
    ]


def describe_rows(x_THD: Tensor, rows: int) -> TensorDescriptor:
    """Blocks [1, rows, D] of [H, T, D]."""
    num_tokens, num_heads, head_size = x_THD.shape
    token_stride, head_stride = outer_strides(x_THD)
    return TensorDescriptor(
        x_THD, [num_heads, num_tokens, head_size], [head_stride, token_stride, 1], [1, rows, head_size]
    )


def describe_keys(x_TGD: Tensor, rows: int) -> TensorDescriptor:
    """Blocks [1, 1, rows, D] of [1, G, T, D]: packed keys look like one page."""
    num_tokens, num_heads, head_size = x_TGD.shape
    token_stride, head_stride = outer_strides(x_TGD)
    return TensorDescriptor(
        x_TGD,
        [1, num_heads, num_tokens, head_size],
        [head_stride, head_stride, token_stride, 1],
        [1, 1, rows, head_size],
    )


def describe_stats(x_HS: Tensor, rows: int) -> TensorDescriptor:
    """Blocks [1, rows] of a number a row and head."""
    return TensorDescriptor(x_HS, list(x_HS.shape), list(x_HS.stride()), [1, rows])
