"""Drawing from a nucleus: the fewest likeliest tokens whose masses reach top_p, ties to the lowest id.

No sort. A token below (1 - top_p) / V of the row cannot be inside: all such together are less than may be
left out. `collect_kernel` gathers the others, often few; `select_kernel` bisects their logits, as integers,
for the smallest inside; masses are integers too, so it is exact. A row without a filter returns at once.
Legend: B sequences, V vocabulary, C chunks of a row, N numbers.
"""

import triton
import triton.language as tl

from forklight_kernels.sampler.triton_draw import first_above, value_at
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

SAFETY = tl.constexpr(0.01)
"""Of a logarithm: keeps rounding from leaving a token out that belongs in."""


@triton.jit
def _ordered(logits):
    """fp32 as integers in the same order."""
    bits = logits.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit(do_not_specialize_on_alignment=["TEMPERATURES", "TOP_PS"])
def collect_kernel(
    LOGITS,
    TEMPERATURES,
    TOP_PS,
    BLOCKS,
    CANDIDATES,
    COUNTS,
    stride,
    V,
    num_blocks,
    CHUNK: tl.constexpr,
    LANES: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """CANDIDATES [B, C, CHUNK]: logits that may be inside, at the front of their chunk; COUNTS [B, C]."""
    row, chunk = tl.program_id(0), tl.program_id(1)
    temperature, top_p = tl.load(TEMPERATURES + row), tl.load(TOP_PS + row)
    if (temperature > 0) & (top_p < 1):
        tops, sums = load_row_blocks(BLOCKS, row, num_blocks, False, LANES)
        top, total = merge_sums(tops, sums, LEVELS)
        cut = tl.max(top + tl.log(total * ((1 - top_p) / V)) - SAFETY, 0)
        column = chunk * CHUNK + tl.arange(0, CHUNK)
        logits = load_logits(LOGITS, row, stride, column, V)
        is_candidate = (scaled(logits, inverse_of(temperature)) >= cut) & (column < V)
        place = tl.cumsum(is_candidate.to(tl.int32), 0) - 1
        chunk_number = row.to(tl.int64) * tl.num_programs(1) + chunk
        tl.store(CANDIDATES + chunk_number * CHUNK + place, logits, mask=is_candidate)
        tl.store(COUNTS + chunk_number, tl.sum(is_candidate.to(tl.int32), 0))


@triton.jit
def _candidates(
    CANDIDATES,
    row,
    start,
    counts_C,
    inverse,
    top,
    num_chunks,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr,
    SCALE: tl.constexpr,
):
    """(ordered logits, masses, which are real), [CHUNKS, WIDTH], of every chunk's candidates from `start`."""
    place = start + tl.arange(0, WIDTH)[None, :]
    is_real = place < counts_C[:, None]
    chunk = tl.arange(0, CHUNKS)[:, None]
    pointers = CANDIDATES + (row.to(tl.int64) * num_chunks + chunk) * CHUNK + place
    logits = tl.load(pointers, mask=is_real, other=0.0)
    masses = whole_masses(exponential(scaled(logits, inverse) - top), SCALE)
    return _ordered(logits), tl.where(is_real, masses, 0), is_real


@triton.jit
def _total(tile):
    return tl.sum(tl.sum(tile, 1), 0)


@triton.jit
def _smallest_inside(
    CANDIDATES,
    row,
    counts_C,
    wanted,
    inverse,
    top,
    num_chunks,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr,
    SCALE: tl.constexpr,
):
    """The largest ordered logit that, with all larger ones, weighs `wanted`; else the smallest there is."""
    deepest = tl.max(counts_C, 0)
    smallest = tl.full([CHUNKS, WIDTH], 0x7FFFFFFF, tl.int32)
    largest = tl.full([CHUNKS, WIDTH], -0x80000000, tl.int32)
    for start in range(0, deepest, WIDTH):
        ordered, _, is_real = _candidates(
            CANDIDATES, row, start, counts_C, inverse, top, num_chunks, CHUNK, CHUNKS, WIDTH, SCALE
        )
        smallest = tl.where(is_real, tl.minimum(smallest, ordered), smallest)
        largest = tl.where(is_real, tl.maximum(largest, ordered), largest)
    low = tl.min(tl.min(smallest, 1), 0).to(tl.int64)  # enough, or all that there is
    high = tl.max(tl.max(largest, 1), 0).to(tl.int64) + 1  # never enough
    while high - low > 1:
        middle = low + (high - low) // 2
        inside = tl.zeros([CHUNKS, WIDTH], tl.int64)
        for start in range(0, deepest, WIDTH):
            ordered, masses, _ = _candidates(
                CANDIDATES, row, start, counts_C, inverse, top, num_chunks, CHUNK, CHUNKS, WIDTH, SCALE
            )
            inside += tl.where(ordered >= middle, masses, 0)
        is_enough = _total(inside) >= wanted
        low = tl.where(is_enough, middle, low)
        high = tl.where(is_enough, high, middle)
    return low


@triton.jit
def _weigh_chunks(
    CANDIDATES,
    row,
    counts_C,
    edge,
    wanted,
    inverse,
    top,
    num_chunks,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr,
    SCALE: tl.constexpr,
):
    """(mass inside, tokens equal to the edge that are inside) of every chunk."""
    above = tl.zeros([CHUNKS, WIDTH], tl.int64)
    equal = tl.zeros([CHUNKS, WIDTH], tl.int32)
    edge_mass = tl.zeros([CHUNKS, WIDTH], tl.int64)
    for start in range(0, tl.max(counts_C, 0), WIDTH):
        ordered, masses, is_real = _candidates(
            CANDIDATES, row, start, counts_C, inverse, top, num_chunks, CHUNK, CHUNKS, WIDTH, SCALE
        )
        is_equal = is_real & (ordered == edge)
        above += tl.where(ordered > edge, masses, 0)
        equal += is_equal.to(tl.int32)
        edge_mass = tl.maximum(edge_mass, tl.where(is_equal, masses, 0))
    one_mass = tl.max(tl.max(edge_mass, 1), 0)
    above_C, equal_C = tl.sum(above, 1), tl.sum(equal, 1).to(tl.int64)
    missing = wanted - tl.sum(above_C, 0)
    needed = tl.maximum((missing + one_mass - 1) // tl.maximum(one_mass, 1), 1)
    earlier_C = tl.cumsum(equal_C, 0) - equal_C
    inside_C = tl.minimum(tl.maximum(needed - earlier_C, 0), equal_C)
    return above_C + inside_C * one_mass, inside_C


@triton.jit(
    do_not_specialize_on_alignment=["TEMPERATURES", "TOP_PS", "SEEDS", "POSITIONS"],
)
def select_kernel(
    LOGITS,
    TEMPERATURES,
    TOP_PS,
    SEEDS,
    POSITIONS,
    BLOCKS,
    CANDIDATES,
    COUNTS,
    IDS,
    LOGPROBS,
    RAW_LOGPROBS,
    stride,
    V,
    num_blocks,
    num_chunks,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr,
    LANES: tl.constexpr,
    LEVELS: tl.constexpr,
    SCALE: tl.constexpr,
):
    """One row a program; overwrites what draw_kernel chose where the row has a filter."""
    row = tl.program_id(0)
    temperature, top_p = tl.load(TEMPERATURES + row), tl.load(TOP_PS + row)
    if (temperature > 0) & (top_p < 1):
        inverse = inverse_of(temperature)
        tops, sums = load_row_blocks(BLOCKS, row, num_blocks, False, LANES)
        top = tl.max(tl.max(tops, 1), 0)
        total = _total(block_masses(tops, sums, top, SCALE))
        wanted = tl.maximum(tl.ceil(top_p.to(tl.float64) * total.to(tl.float64)).to(tl.int64), 1)
        lane_C = tl.arange(0, CHUNKS)
        counts_C = tl.load(COUNTS + row.to(tl.int64) * num_chunks + lane_C, mask=lane_C < num_chunks, other=0)
        edge = _smallest_inside(
            CANDIDATES, row, counts_C, wanted, inverse, top, num_chunks, CHUNK, CHUNKS, WIDTH, SCALE
        )
        masses_C, equal_C = _weigh_chunks(
            CANDIDATES, row, counts_C, edge, wanted, inverse, top, num_chunks, CHUNK, CHUNKS, WIDTH, SCALE
        )
        kept = tl.sum(masses_C, 0)
        place = place_in(uniform_bits(tl.load(SEEDS + row), tl.load(POSITIONS + row)), kept)
        chunk = first_above(tl.cumsum(masses_C, 0), place, num_chunks)
        place -= tl.sum(tl.where(lane_C < chunk, masses_C, 0), 0)
        num_equal = tl.sum(tl.where(lane_C == chunk, equal_C, 0), 0)

        lane = tl.arange(0, CHUNK)
        logits = load_logits(LOGITS, row, stride, chunk * CHUNK + lane, V)
        z = scaled(logits, inverse)
        ordered = _ordered(logits)
        is_equal = ordered == edge
        is_inside = (ordered > edge) | (is_equal & (tl.cumsum(is_equal.to(tl.int32), 0) <= num_equal))
        masses = tl.where(is_inside, whole_masses(exponential(z - top), SCALE), 0)
        token = tl.minimum(first_above(tl.cumsum(masses, 0), place, CHUNK), V - 1 - chunk * CHUNK)

        one = tl.arange(0, 1)
        kept_weight = (kept.to(tl.float64) / SCALE).to(tl.float32)
        raw_tops, raw_sums = load_row_blocks(BLOCKS, row, num_blocks, True, LANES)
        raw_top, raw_total = merge_sums(raw_tops, raw_sums, LEVELS)
        tl.store(IDS + row, (chunk * CHUNK + token).to(tl.int64))
        tl.store(LOGPROBS + row, log_probability(value_at(z, token, lane), top, kept_weight))
        tl.store(RAW_LOGPROBS + row + one, log_probability(value_at(logits, token, lane), raw_top, raw_total))
