"""The kernels of the LM head: statistics in a product's epilogue or of stored logits, their merge, dz.

A logit computed here never leaves its program. The statistics of a vocabulary block are four numbers: largest
z, sum, moment, the target's z (-inf where the target is elsewhere).
Legend: T tokens, D width, V vocabulary; R rows of a tile, N columns of a block.
"""

import triton
import triton.language as tl

from forklight_kernels.token_stats.triton_statistics import (
    NEGLIGIBLE,
    block_exponentials,
    exponential,
    fold,
    log_probability,
    merge_moments,
    merge_sums,
    product,
)
from forklight_kernels.triton_tiles import place_of_tile, store_block


@triton.jit
def _tile_of_product(
    LEFT, RIGHT, row, column, D, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr
):
    """left @ right^T: one fp32 accumulator, all of D in rising order."""
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for k in range(0, D, DEPTH):
        total = tl.dot(LEFT.load([row, k]), RIGHT.load([column, k]).T, total, input_precision="ieee")
    return total


@triton.jit
def _scaled(z_RN, inverse, IS_SCALED: tl.constexpr):
    if IS_SCALED:
        z_RN = product(z_RN, tl.full(z_RN.shape, inverse, tl.float32))
    return z_RN


@triton.jit
def _store_statistics(STATS, place_R, is_stored_R, z_RN, target_R, LEVELS: tl.constexpr):
    """Reduce vocabulary blocks, a row each; target_R < 0 where the target is elsewhere."""
    column_N = tl.arange(0, z_RN.shape[1])
    target_z_R = tl.full([z_RN.shape[0]], float("-inf"), tl.float32)
    if tl.max(target_R, 0) >= 0:  # few tiles hold a target; the others need not look for it
        target_z_R = tl.max(tl.where(column_N[None, :] == target_R[:, None], z_RN, float("-inf")), 1)
    top_R, below_RN, p_RN = block_exponentials(z_RN)
    sum_R = fold(p_RN, LEVELS)
    moment_R = fold(product(p_RN, below_RN), LEVELS)
    # In memory: top, sum, moment, target.
    numbers = tl.join(tl.join(top_R, moment_R), tl.join(sum_R, target_z_R))
    pair = tl.arange(0, 2)
    pointers = STATS + place_R[:, None, None] * 4 + pair[None, :, None] * 2 + pair[None, None, :]
    tl.store(pointers, numbers, mask=is_stored_R[:, None, None])


@triton.jit(do_not_specialize=["T"])
def product_statistics_kernel(
    HIDDEN,
    WEIGHT,
    TARGETS,
    STATS,
    T,
    V,
    D,
    num_blocks,
    inverse,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK: tl.constexpr,
    LEVELS: tl.constexpr,
    GROUP: tl.constexpr,
    IS_SCALED: tl.constexpr,
):
    """STATS [T, num_blocks, 4] of hidden @ weight^T."""
    PARTS: tl.constexpr = COLUMNS // BLOCK
    num_m, num_n = tl.cdiv(T, ROWS), tl.cdiv(V, COLUMNS)
    for tile in tl.range(tl.program_id(0), num_m * num_n, tl.num_programs(0), flatten=True):
        place_m, place_n = place_of_tile(tile, num_m, num_n, GROUP)
        z = _tile_of_product(HIDDEN, WEIGHT, place_m * ROWS, place_n * COLUMNS, D, ROWS, COLUMNS, DEPTH)
        z = _scaled(z, inverse, IS_SCALED)
        num_left = V - place_n * COLUMNS
        z = tl.where(tl.arange(0, COLUMNS)[None, :] < num_left, z, NEGLIGIBLE)
        flat_R = tl.arange(0, ROWS * PARTS)
        row_R, part_R = place_m * ROWS + flat_R // PARTS, flat_R % PARTS
        target_R = tl.load(TARGETS + row_R, mask=row_R < T, other=-1) - place_n * COLUMNS
        is_inside_R = (target_R >= part_R * BLOCK) & (target_R < tl.minimum(part_R * BLOCK + BLOCK, num_left))
        target_R = tl.where(is_inside_R, target_R - part_R * BLOCK, -1).to(tl.int32)
        block_R = place_n * PARTS + part_R
        is_stored_R = (row_R < T) & (block_R < num_blocks)
        z_RN = tl.reshape(z, (ROWS * PARTS, BLOCK))
        _store_statistics(STATS, row_R * num_blocks + block_R, is_stored_R, z_RN, target_R, LEVELS)


@triton.jit
def logit_statistics_kernel(
    LOGITS,
    TARGETS,
    STATS,
    stride,
    V,
    num_blocks,
    inverse,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    LEVELS: tl.constexpr,
    IS_SCALED: tl.constexpr,
):
    """The same numbers from stored logits: ROWS blocks of one row a program."""
    row = tl.program_id(0)
    block_R = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column_RN = block_R[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    is_real_RN = column_RN < V
    z_RN = tl.load(LOGITS + row.to(tl.int64) * stride + column_RN, mask=is_real_RN, other=NEGLIGIBLE).to(
        tl.float32
    )
    z_RN = tl.maximum(_scaled(z_RN, inverse, IS_SCALED), NEGLIGIBLE)
    z_RN = tl.where(is_real_RN, z_RN, NEGLIGIBLE)
    target = tl.load(TARGETS + row)
    target_R = tl.where((target < V) & (target // BLOCK == block_R) & (target >= 0), target % BLOCK, -1)
    place_R = row * num_blocks + block_R
    _store_statistics(STATS, place_R, block_R < num_blocks, z_RN, target_R.to(tl.int32), LEVELS)


@triton.jit
def merge_statistics_kernel(
    STATS, LOGPROBS, ENTROPY, NORMALIZER, num_blocks, LANES: tl.constexpr, LEVELS: tl.constexpr
):
    """One row a program: log-probability, entropy and log-sum-exp from its blocks. No target: nan."""
    row = tl.program_id(0)
    place_R = row + tl.arange(0, 1)
    block_N = tl.arange(0, LANES)
    is_real_RN = (block_N < num_blocks)[None, :]
    pointers = STATS + (place_R[:, None].to(tl.int64) * num_blocks + block_N[None, :]) * 4
    tops_RN = tl.load(pointers, mask=is_real_RN, other=NEGLIGIBLE)
    sums_RN = tl.load(pointers + 1, mask=is_real_RN, other=0.0)
    moments_RN = tl.load(pointers + 2, mask=is_real_RN, other=0.0)
    target_z_R = tl.max(tl.load(pointers + 3, mask=is_real_RN, other=float("-inf")), 1)
    top_R, total_R = merge_sums(tops_RN, sums_RN, LEVELS)
    moment_R = merge_moments(tops_RN, sums_RN, moments_RN, top_R, LEVELS)
    logprob_R = log_probability(target_z_R, top_R, total_R)
    tl.store(LOGPROBS + place_R, tl.where(target_z_R == float("-inf"), float("nan"), logprob_R))
    tl.store(ENTROPY + place_R, tl.log(total_R) - moment_R / total_R)
    tl.store(NORMALIZER + place_R, top_R + tl.log(total_R))


@triton.jit(do_not_specialize=["T", "first"])
def logit_gradient_kernel(
    HIDDEN,
    WEIGHT,
    TARGETS,
    NORMALIZER,
    ENTROPY,
    DLOGPROBS,
    DENTROPY,
    DZ,
    T,
    D,
    first,
    num_columns,
    inverse,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PARTS: tl.constexpr,
    GROUP: tl.constexpr,
    IS_SCALED: tl.constexpr,
    HAS_LOGPROBS: tl.constexpr,
    HAS_ENTROPY: tl.constexpr,
):
    """dz [T, columns] of the vocabulary from `first`; the formula is in the README."""
    num_m, num_n = tl.cdiv(T, ROWS), tl.cdiv(num_columns, COLUMNS)
    for tile in tl.range(tl.program_id(0), num_m * num_n, tl.num_programs(0), flatten=True):
        place_m, place_n = place_of_tile(tile, num_m, num_n, GROUP)
        row, column = place_m * ROWS, place_n * COLUMNS
        z = _tile_of_product(HIDDEN, WEIGHT, row, first + column, D, ROWS, COLUMNS, DEPTH)
        row_R = row + tl.arange(0, ROWS)
        is_row_R = row_R < T
        z = _scaled(z, inverse, IS_SCALED) - tl.load(NORMALIZER + row_R, mask=is_row_R, other=0.0)[:, None]
        p = exponential(z)
        pull_R = tl.zeros([ROWS], tl.float32)
        if HAS_LOGPROBS:
            pull_R = tl.load(DLOGPROBS + row_R, mask=is_row_R, other=0.0) * inverse
        if HAS_ENTROPY:
            spread_R = tl.load(DENTROPY + row_R, mask=is_row_R, other=0.0) * inverse
            level_R = pull_R + spread_R * tl.load(ENTROPY + row_R, mask=is_row_R, other=0.0)
            dz = -p * (z * spread_R[:, None] + level_R[:, None])
        else:
            dz = -p * pull_R[:, None]
        if HAS_LOGPROBS:
            target_R = tl.load(TARGETS + row_R, mask=is_row_R, other=-1) - (first + column)
            target_R = tl.where((target_R >= 0) & (target_R < COLUMNS), target_R, -1).to(tl.int32)
            if tl.max(target_R, 0) >= 0:
                is_target = tl.arange(0, COLUMNS)[None, :] == target_R[:, None]
                dz = tl.where(is_target, dz + pull_R[:, None], dz)
        store_block(DZ, row, column, dz, PARTS)
