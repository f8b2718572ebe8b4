"""What all tiled products share: the shape of a tile, tensor maps, the walk over tiles, the store of a block.

Every product here is one fp32 accumulator over all of K in rising order, so a row's bits depend on nothing
that this file lets one choose.
"""

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

MAP_ALIGN_BYTES = 16
"""A tensor map needs its base and all strides but the last as multiples of this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One program's block of the output, its depth along K, its compilation. None of it shows in bits."""

    rows: int
    columns: int
    depth: int
    num_warps: int
    num_stages: int
    parts: int = 1
    """1 or 2: halves of the block stored one after the other need half the staging memory."""
    programs: int = 1
    """Programs a multiprocessor."""
    group: int = 16
    """Rows of tiles that walk over the columns together."""


SHARED_BYTES = 228 * 1024
"""Shared memory of a multiprocessor (sm_90), of which each program leaves 1 KiB to the driver."""

BARRIER_BYTES = 512

WARP_GROUP_ROWS = 64
"""From this height on the asynchronous matrix unit works, which reads its operands in shared memory."""


def fit_stages(tile: Tile, stage_bytes: int, epilogue_bytes: int) -> Tile:
    """The tile with as many of its stages as its part of shared memory holds beside the epilogue's blocks."""
    room = SHARED_BYTES // tile.programs - 1024 - BARRIER_BYTES - epilogue_bytes
    # Short tiles use a stage up before its next load starts, so they hold one block less than stages.
    num_stages = max(1, min(tile.num_stages, room // stage_bytes + (tile.rows < WARP_GROUP_ROWS)))
    return tile if num_stages == tile.num_stages else replace(tile, num_stages=num_stages)


def tensor_map(tensor: Tensor, block: tuple[int, ...]) -> TensorDescriptor:
    """A host descriptor of a tensor that `mappable` returned."""
    return TensorDescriptor.from_tensor(tensor, list(block))


def mappable(tensor: Tensor) -> Tensor:
    """The tensor itself where a tensor map can describe it, else a copy whose rows start aligned."""
    unit = MAP_ALIGN_BYTES // tensor.element_size()
    *outer, width = tensor.shape
    strides = tensor.stride()
    is_aligned = all(stride % unit == 0 and stride > 0 for stride in strides[:-1])
    if strides[-1] == 1 and is_aligned and tensor.data_ptr() % MAP_ALIGN_BYTES == 0:
        return tensor
    copy = tensor.new_empty(*outer, -(-width // unit) * unit)[..., :width]
    return copy.copy_(tensor)


def mappable_rows(like: Tensor, num_rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """Unset memory [num_rows, width] that a tensor map can describe; `.contiguous()` gives it to a caller."""
    unit = MAP_ALIGN_BYTES // dtype.itemsize
    return like.new_empty(num_rows, -(-width // unit) * unit, dtype=dtype)[:, :width]


@triton.jit
def place_of_tile(tile, num_m, num_n, GROUP: tl.constexpr):
    """Row and column of a tile. Up to GROUP rows of tiles advance together: both operands stay in L2.

    The groups are of one size but for the last: a group of one row would stream all columns for itself.
    """
    size = tl.cdiv(num_m, tl.cdiv(num_m, GROUP))
    first = tile // (size * num_n) * size
    size_here = tl.minimum(num_m - first, size)
    local = tile - first * num_n
    return first + local % size_here, local // size_here


@triton.jit
def halves(block):
    """Left and right columns of a block; in registers nothing moves."""
    ROWS: tl.constexpr = block.shape[0]
    COLUMNS: tl.constexpr = block.shape[1]
    return tl.split(tl.permute(tl.reshape(block, (ROWS, 2, COLUMNS // 2)), (0, 2, 1)))


@triton.jit
def store_block(OUT, row, column, block, PARTS: tl.constexpr):
    """Round to OUT's dtype and store. A tensor map never writes outside its tensor."""
    if PARTS == 1:
        OUT.store([row, column], block.to(OUT.dtype))
    else:
        left, right = halves(block)
        OUT.store([row, column], left.to(OUT.dtype))
        OUT.store([row, column + block.shape[1] // 2], right.to(OUT.dtype))
