"""Drawing from what filters leave: the k likeliest tokens, of them what min_p allows, of them the nucleus.

All three keep the first tokens of one order (larger logits first, of equals the lower id), so what is left is
an edge and how many equals of it. `collect_kernel` lists the tokens of the bins that a border can be in and
weighs the others; `select_kernel` searches the list, exactly: masses and counts are integers.
Legend: B sequences, V vocabulary, C chunks of a row, N numbers.
"""

import triton
import triton.language as tl

from forklight_kernels.sampler.triton_draw import first_above, value_at
from forklight_kernels.sampler.triton_masses import load_logits, load_row_blocks, scaled, whole_masses
from forklight_kernels.sampler.triton_random import place_in, uniform_bits
from forklight_kernels.sampler.triton_window import (
    BINS,
    BINS_A_UNIT,
    BORDER_BIN,
    FIRST_BIN,
    INVERSE,
    IS_FILTERED,
    LARGEST_Z,
    LAST_BIN,
    LEAST,
    MISSING,
    SMALLEST,
    TOP_P,
    bins_of,
    from_ordered,
    load_plan,
    load_scale,
    ordered,
)
from forklight_kernels.token_stats.triton_statistics import (
    NEGLIGIBLE,
    exponential,
    log_probability,
    merge_sums,
)


@triton.jit
def collect_kernel(
    LOGITS,
    PLAN,
    SCALES,
    CANDIDATES,
    COUNTS,
    REST,
    stride,
    V,
    CHUNK: tl.constexpr,
    SCALE: tl.constexpr,
):
    """CANDIDATES [B, C, CHUNK]: logits that a border can be at, at the front of their chunk; COUNTS [B, C].

    REST int64 [B, C, 2]: mass of all likelier tokens; of those between the two brackets.
    """
    row, chunk = tl.program_id(0), tl.program_id(1)
    if load_plan(PLAN, row, IS_FILTERED) != 0:
        logits = load_logits(LOGITS, row, stride, chunk * CHUNK + tl.arange(0, CHUNK), V)
        z, top = scaled(logits, load_scale(SCALES, row, INVERSE)), load_scale(SCALES, row, LARGEST_Z)
        bins = bins_of(z, top, load_scale(SCALES, row, BINS_A_UNIT))
        first, last = load_plan(PLAN, row, FIRST_BIN), load_plan(PLAN, row, LAST_BIN)
        border = load_plan(PLAN, row, BORDER_BIN)
        is_candidate = (bins < BINS - 1) & (((bins >= first) & (bins <= last)) | (bins == border))
        masses = whole_masses(exponential(z - top), SCALE)
        chunk_number = row.to(tl.int64) * tl.num_programs(1) + chunk
        tl.store(REST + chunk_number * 2, tl.sum(tl.where(bins < first, masses, 0), 0))
        between = tl.full([], 0, tl.int64)
        if border > last + 1:
            between = tl.sum(tl.where((bins > last) & (bins < border), masses, 0), 0)
        tl.store(REST + chunk_number * 2 + 1, between)
        count = tl.sum(is_candidate.to(tl.int32), 0)
        tl.store(COUNTS + chunk_number, count)
        if count > 0:
            place = tl.cumsum(is_candidate.to(tl.int32), 0) - 1
            tl.store(CANDIDATES + chunk_number * CHUNK + place, logits, mask=is_candidate)


@triton.jit
def _candidates(
    CANDIDATES,
    row,
    start,
    counts_C,
    num_chunks,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """(logits, which are real), [CHUNKS, WIDTH], of every chunk's candidates from `start`."""
    place = start + tl.arange(0, WIDTH)[None, :]
    is_real = place < counts_C[:, None]
    chunk = tl.arange(0, CHUNKS)[:, None]
    pointers = CANDIDATES + (row.to(tl.int64) * num_chunks + chunk) * CHUNK + place
    return tl.load(pointers, mask=is_real, other=NEGLIGIBLE), is_real


@triton.jit
def _masses(logits, inverse, top, SCALE: tl.constexpr):
    return whole_masses(exponential(scaled(logits, inverse) - top), SCALE)


@triton.jit
def _smallest(tile):
    return tl.min(tl.min(tile, 1), 0).to(tl.int64)


@triton.jit
def _largest(tile):
    return tl.max(tl.max(tile, 1), 0).to(tl.int64)


@triton.jit
def _ends(
    CANDIDATES,
    row,
    counts_C,
    num_chunks,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The smallest and the largest candidate."""
    smallest = tl.full([CHUNKS, WIDTH], 0x7FFFFFFF, tl.int32)
    largest = tl.full([CHUNKS, WIDTH], SMALLEST, tl.int32)
    for start in range(0, tl.max(counts_C, 0), WIDTH):
        logits, is_real = _candidates(CANDIDATES, row, start, counts_C, num_chunks, CHUNK, CHUNKS, WIDTH)
        candidate = ordered(logits)
        smallest = tl.where(is_real, tl.minimum(smallest, candidate), smallest)
        largest = tl.where(is_real, tl.maximum(largest, candidate), largest)
    return _smallest(smallest), _largest(largest)


@triton.jit
def _middle(low, high):
    """A number strictly between, half-way between the logits that they stand for: those lie more evenly."""
    half = from_ordered(low.to(tl.int32)) * 0.5 + from_ordered((high - 1).to(tl.int32)) * 0.5
    return tl.minimum(tl.maximum(ordered(half).to(tl.int64), low + 1), high - 1)


@triton.jit
def _edge(
    CANDIDATES,
    row,
    counts_C,
    low,
    high,
    wanted,
    IS_COUNT: tl.constexpr,
    inverse,
    top,
    num_chunks,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr,
    SCALE: tl.constexpr,
):
    """The largest candidate that weighs `wanted` with all larger ones, or counts so many; else `low`.

    `low` is enough or all that may be; `high`, above every candidate, never is. Each pass moves one of them
    to the nearest candidate, so that the search ends when none is left between.
    """
    while high - low > 1:
        middle = _middle(low, high)
        inside = tl.zeros([CHUNKS, WIDTH], tl.int64)
        above = tl.full([CHUNKS, WIDTH], 0x7FFFFFFF, tl.int32)
        below = tl.full([CHUNKS, WIDTH], SMALLEST, tl.int32)
        for start in range(0, tl.max(counts_C, 0), WIDTH):
            logits, is_real = _candidates(CANDIDATES, row, start, counts_C, num_chunks, CHUNK, CHUNKS, WIDTH)
            candidate = ordered(logits)
            weights = is_real.to(tl.int64) if IS_COUNT else _masses(logits, inverse, top, SCALE)
            is_inside = is_real & (candidate >= middle)
            inside += tl.where(is_inside, weights, 0)
            above = tl.where(is_inside, tl.minimum(above, candidate), above)
            below = tl.where(is_real & (candidate < middle), tl.maximum(below, candidate), below)
        is_enough = tl.sum(tl.sum(inside, 1), 0) >= wanted
        high = tl.where(is_enough, high, tl.maximum(_largest(below), low) + 1)
        low = tl.where(is_enough, _smallest(above), low)
    return low


@triton.jit
def _weigh_chunks(
    CANDIDATES,
    row,
    counts_C,
    edge,
    inverse,
    top,
    num_chunks,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr,
    SCALE: tl.constexpr,
):
    """(Mass above the edge, number above, number equal) of every chunk's candidates; mass of an equal."""
    mass = tl.zeros([CHUNKS, WIDTH], tl.int64)
    above = tl.zeros([CHUNKS, WIDTH], tl.int32)
    equal = tl.zeros([CHUNKS, WIDTH], tl.int32)
    equal_mass = tl.zeros([CHUNKS, WIDTH], tl.int64)
    for start in range(0, tl.max(counts_C, 0), WIDTH):
        logits, is_real = _candidates(CANDIDATES, row, start, counts_C, num_chunks, CHUNK, CHUNKS, WIDTH)
        candidate, masses = ordered(logits), _masses(logits, inverse, top, SCALE)
        is_above, is_equal = is_real & (candidate > edge), is_real & (candidate == edge)
        mass += tl.where(is_above, masses, 0)
        above += is_above.to(tl.int32)
        equal += is_equal.to(tl.int32)
        equal_mass = tl.maximum(equal_mass, tl.where(is_equal, masses, 0))
    one_mass = tl.max(tl.max(equal_mass, 1), 0)
    return tl.sum(mass, 1), tl.sum(above, 1).to(tl.int64), tl.sum(equal, 1).to(tl.int64), one_mass


@triton.jit(
    do_not_specialize_on_alignment=["SEEDS", "POSITIONS"],
)
def select_kernel(
    LOGITS,
    SEEDS,
    POSITIONS,
    BLOCKS,
    PLAN,
    SCALES,
    TOTALS,
    CANDIDATES,
    COUNTS,
    REST,
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
    if load_plan(PLAN, row, IS_FILTERED) != 0:
        inverse, top = load_scale(SCALES, row, INVERSE), load_scale(SCALES, row, LARGEST_Z)
        lane_C = tl.arange(0, CHUNKS)
        place_C, is_chunk_C = row.to(tl.int64) * num_chunks + lane_C, lane_C < num_chunks
        counts_C = tl.load(COUNTS + place_C, mask=is_chunk_C, other=0)
        likelier_C = tl.load(REST + place_C * 2, mask=is_chunk_C, other=0)
        likelier = tl.sum(likelier_C, 0)
        smallest, largest = _ends(CANDIDATES, row, counts_C, num_chunks, CHUNK, CHUNKS, WIDTH)

        # What top_k and min_p leave: candidates above `edge`, and `limit` of those equal to it.
        least = load_plan(PLAN, row, LEAST).to(tl.int64)
        missing = load_plan(PLAN, row, MISSING).to(tl.int64)
        kth = tl.full([], SMALLEST - 1, tl.int64)
        if missing > 0:
            kth = _edge(
                CANDIDATES, row, counts_C, smallest, largest + 1, missing, True, inverse, top,
                num_chunks, CHUNK, CHUNKS, WIDTH, SCALE,
            )  # fmt: skip
        edge = tl.maximum(kth, least)
        masses_C, above_C, equal_C, one_mass = _weigh_chunks(
            CANDIDATES, row, counts_C, edge, inverse, top, num_chunks, CHUNK, CHUNKS, WIDTH, SCALE
        )
        limit = tl.where(kth >= least, missing - tl.sum(above_C, 0), 0x7FFFFFFF)

        top_p = load_scale(SCALES, row, TOP_P)
        if top_p < 1:
            between = tl.sum(tl.load(REST + place_C * 2 + 1, mask=is_chunk_C, other=0), 0)
            total = likelier + between + tl.sum(masses_C, 0)
            total += tl.minimum(limit, tl.sum(equal_C, 0)) * one_mass
            whole = tl.load(TOTALS + row)
            total = tl.where(whole > 0, whole, total)
            wanted = (
                tl.maximum(tl.ceil(top_p.to(tl.float64) * total.to(tl.float64)).to(tl.int64), 1) - likelier
            )
            nucleus_edge = _edge(
                CANDIDATES, row, counts_C, tl.maximum(smallest, edge), largest + 1, wanted, False, inverse,
                top, num_chunks, CHUNK, CHUNKS, WIDTH, SCALE,
            )  # fmt: skip
            masses_C, _, equal_C, one_mass = _weigh_chunks(
                CANDIDATES, row, counts_C, nucleus_edge, inverse, top, num_chunks, CHUNK, CHUNKS, WIDTH, SCALE
            )
            lacking = wanted - tl.sum(masses_C, 0)
            needed = tl.maximum((lacking + one_mass - 1) // tl.maximum(one_mass, 1), 1)
            limit = tl.where(nucleus_edge > edge, needed, tl.minimum(needed, limit))
            edge = nucleus_edge
        earlier_C = tl.cumsum(equal_C, 0) - equal_C
        equal_C = tl.minimum(tl.maximum(limit - earlier_C, 0), equal_C)
        masses_C += likelier_C + equal_C * one_mass

        kept = tl.sum(masses_C, 0)
        place = place_in(uniform_bits(tl.load(SEEDS + row), tl.load(POSITIONS + row)), kept)
        chunk = first_above(tl.cumsum(masses_C, 0), place, num_chunks)
        place -= tl.sum(tl.where(lane_C < chunk, masses_C, 0), 0)
        num_equal = tl.sum(tl.where(lane_C == chunk, equal_C, 0), 0)

        lane = tl.arange(0, CHUNK)
        logits = load_logits(LOGITS, row, stride, chunk * CHUNK + lane, V)
        z = scaled(logits, inverse)
        number = ordered(logits)
        is_equal = number == edge
        is_inside = (number > edge) | (is_equal & (tl.cumsum(is_equal.to(tl.int32), 0) <= num_equal))
        masses = tl.where(is_inside, whole_masses(exponential(z - top), SCALE), 0)
        token = tl.minimum(first_above(tl.cumsum(masses, 0), place, CHUNK), V - 1 - chunk * CHUNK)

        one = tl.arange(0, 1)
        kept_weight = (kept.to(tl.float64) / SCALE).to(tl.float32)
        raw_tops, raw_sums = load_row_blocks(BLOCKS, row, num_blocks, True, LANES)
        raw_top, raw_total = merge_sums(raw_tops, raw_sums, LEVELS)
        tl.store(IDS + row, (chunk * CHUNK + token).to(tl.int64))
        tl.store(LOGPROBS + row, log_probability(value_at(z, token, lane), top, kept_weight))
        tl.store(RAW_LOGPROBS + row + one, log_probability(value_at(logits, token, lane), raw_top, raw_total))
