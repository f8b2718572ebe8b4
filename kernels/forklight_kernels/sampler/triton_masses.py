"""Masses of tokens as whole numbers, so that sums are exact: no order of adding, batch or layout can matter.

A mass is exp(z - largest z of the row) * SCALE, a power of two, cut to an integer.
Legend: R blocks of a program, N numbers a row of a tile, B sequences, V vocabulary.
"""

import triton
import triton.language as tl

from forklight_kernels.token_stats.triton_statistics import (
    NEGLIGIBLE,
    block_exponentials,
    exponential,
    fold,
    product,
)
from forklight_kernels.triton_order import follow


@triton.jit
def inverse_of(temperature):
    """What token_stats multiplies with at this temperature; 1 for a greedy row."""
    safe = tl.where(temperature > 0, temperature, 1.0)
    return (1.0 / safe.to(tl.float64)).to(tl.float32)


@triton.jit
def scaled(logits, inverse):
    """z of stored logits; impossible tokens stay comparable."""
    z = product(logits, tl.full(logits.shape, 1.0, tl.float32) * inverse)
    return tl.maximum(z, NEGLIGIBLE)


@triton.jit
def load_logits(LOGITS, row, stride, column, V):
    """fp32 logits of a row; NEGLIGIBLE beyond the vocabulary and for -inf. Adding 0 turns -0 into 0."""
    pointers = LOGITS + row.to(tl.int64) * stride + column
    logits = tl.load(pointers, mask=column < V, other=NEGLIGIBLE).to(tl.float32)
    return tl.maximum(logits, NEGLIGIBLE) + 0.0


@triton.jit
def load_row_blocks(BLOCKS, row, num_blocks, IS_RAW: tl.constexpr, LANES: tl.constexpr):
    """(largest z, sum) of all blocks of a row, [1, LANES] each."""
    lane_N = tl.arange(0, LANES)[None, :]
    pointers = BLOCKS + (row.to(tl.int64) * num_blocks + lane_N) * 4 + (0 if IS_RAW else 1)
    tops = tl.load(pointers, mask=lane_N < num_blocks, other=NEGLIGIBLE)
    return tops, tl.load(pointers + 2, mask=lane_N < num_blocks, other=0.0)


@triton.jit
def whole_masses(weights, SCALE: tl.constexpr):
    """Weights relative to the row's likeliest token, as integers."""
    return (weights * SCALE).to(tl.int64)


@triton.jit
def block_masses(tops, sums, top, SCALE: tl.constexpr):
    return whole_masses(product(sums, exponential(tops - top)), SCALE)


@triton.jit(do_not_specialize_on_alignment=["TEMPERATURES"])
def block_sums_kernel(
    LOGITS,
    TEMPERATURES,
    BLOCKS,
    stride,
    V,
    num_blocks,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    LEVELS: tl.constexpr,
    EARLY: tl.constexpr,
):
    """BLOCKS [B, num_blocks, 4]: largest and sum at temperature 1 and at the row's own, interleaved."""
    follow(EARLY)
    row = tl.program_id(0)
    block_R = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column_RN = block_R[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    logits_RN = load_logits(LOGITS, row, stride, column_RN, V)
    inverse = inverse_of(tl.load(TEMPERATURES + row))
    raw_top_R, _, raw_p_RN = block_exponentials(logits_RN)
    raw_sum_R = fold(raw_p_RN, LEVELS)
    top_R, sum_R = raw_top_R, raw_sum_R
    if inverse != 1.0:
        top_R, _, p_RN = block_exponentials(scaled(logits_RN, inverse))
        sum_R = fold(p_RN, LEVELS)
    # In memory: top at 1, top, sum at 1, sum.
    numbers = tl.join(tl.join(raw_top_R, raw_sum_R), tl.join(top_R, sum_R))
    pair = tl.arange(0, 2)
    place_R = row.to(tl.int64) * num_blocks + block_R
    pointers = BLOCKS + place_R[:, None, None] * 4 + pair[None, :, None] * 2 + pair[None, None, :]
    tl.store(pointers, numbers, mask=(block_R < num_blocks)[:, None, None])
