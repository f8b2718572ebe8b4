"""Drawing from a whole row: its blocks' masses choose a block, the block's own tokens the token.

Legend: B sequences, V vocabulary.
"""

import triton
import triton.language as tl

from forklight_kernels.sampler.triton_masses import (
    block_masses,
    inverse_of,
    load_logits,
    load_row_blocks,
    scaled,
    whole_masses,
)
from forklight_kernels.sampler.triton_random import place_in, uniform_bits
from forklight_kernels.token_stats.triton_statistics import exponential, log_probability, merge_sums
from forklight_kernels.triton_order import follow

TOKEN_SCALE = tl.constexpr(2.0**52)
"""Masses inside one block, relative to its own largest: 256 of them stay below 2^61."""


@triton.jit
def first_above(cumulative, place, count):
    """Index of the first cumulative mass above `place`; inside the range whatever the numbers are."""
    return tl.minimum(tl.sum((cumulative <= place).to(tl.int32), 0), count - 1)


@triton.jit
def value_at(values, index, lane):
    return tl.max(tl.where(lane == index, values, float("-inf")), 0)


@triton.jit
def _first_equal(values, value, lane, count):
    return tl.minimum(tl.min(tl.where(values == value, lane, count), 0), count - 1)


@triton.jit
def _place_in_block(masses, place, block, lane, token_total):
    """A place among the row's masses, carried over to the chosen block's tokens, whose sum is token_total."""
    before = tl.sum(tl.where(lane < block, masses, 0), 0)
    own = tl.maximum(tl.sum(tl.where(lane == block, masses, 0), 0), 1)
    fraction = (place - before).to(tl.float64) / own.to(tl.float64)
    return tl.minimum((fraction * token_total.to(tl.float64)).to(tl.int64), token_total - 1)


@triton.jit(
    do_not_specialize_on_alignment=["TEMPERATURES", "SEEDS", "POSITIONS"],
)
def draw_kernel(
    LOGITS,
    TEMPERATURES,
    SEEDS,
    POSITIONS,
    BLOCKS,
    IDS,
    LOGPROBS,
    RAW_LOGPROBS,
    stride,
    V,
    num_blocks,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
    LEVELS: tl.constexpr,
    SCALE: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One row a program; top-p is not looked at."""
    follow(EARLY)
    row = tl.program_id(0)
    temperature = tl.load(TEMPERATURES + row)
    inverse = inverse_of(temperature)
    raw_tops, raw_sums = load_row_blocks(BLOCKS, row, num_blocks, True, LANES)
    tops, sums = load_row_blocks(BLOCKS, row, num_blocks, False, LANES)
    raw_top, raw_total = merge_sums(raw_tops, raw_sums, LEVELS)
    top, total = merge_sums(tops, sums, LEVELS)
    block_lane = tl.arange(0, LANES)
    masses = tl.reshape(block_masses(tops, sums, top[:, None], SCALE), (LANES,))
    place = place_in(uniform_bits(tl.load(SEEDS + row), tl.load(POSITIONS + row)), tl.sum(masses, 0))
    drawn_block = first_above(tl.cumsum(masses, 0), place, num_blocks)
    best_block = _first_equal(tl.reshape(raw_tops, (LANES,)), tl.max(raw_top, 0), block_lane, num_blocks)
    block = tl.where(temperature > 0, drawn_block, best_block)

    lane = tl.arange(0, BLOCK)
    logits = load_logits(LOGITS, row, stride, block * BLOCK + lane, V)
    z = scaled(logits, inverse)
    tokens = whole_masses(exponential(z - tl.max(z, 0)), TOKEN_SCALE)
    token_place = _place_in_block(masses, place, drawn_block, block_lane, tl.sum(tokens, 0))
    drawn = first_above(tl.cumsum(tokens, 0), token_place, BLOCK)
    best = _first_equal(logits, tl.max(logits, 0), lane, BLOCK)
    token = tl.minimum(tl.where(temperature > 0, drawn, best), V - 1 - block * BLOCK)

    one = tl.arange(0, 1)
    logprob = log_probability(value_at(z, token, lane), top, total)
    tl.store(IDS + row, (block * BLOCK + token).to(tl.int64))
    tl.store(LOGPROBS + row + one, tl.where(temperature > 0, logprob, 0.0))
    tl.store(RAW_LOGPROBS + row + one, log_probability(value_at(logits, token, lane), raw_top, raw_total))
