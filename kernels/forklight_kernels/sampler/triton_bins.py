"""Where a row's borders are, from how many tokens each bin holds.

`count_kernel` counts; `bracket_kernel` finds the bin of the k-th token, and the bins that the nucleus can end
in: a bin's mass is known to within its width. Only counts and bounds here; triton_nucleus.py is exact.
Legend: B sequences, V vocabulary, C chunks of a row.
"""

import triton
import triton.language as tl

from forklight_kernels.sampler.triton_masses import load_logits, scaled
from forklight_kernels.sampler.triton_window import (
    BINS,
    BINS_A_UNIT,
    BORDER_BIN,
    FIRST_BIN,
    INVERSE,
    IS_FILTERED,
    LARGEST_Z,
    LAST_BIN,
    LEAST_BIN,
    MISSING,
    PLAN_FIELDS,
    TOP_K,
    TOP_P,
    bins_of,
    load_plan,
    load_scale,
)
from forklight_kernels.token_stats.triton_statistics import exponential

BOUND_ERROR = tl.constexpr(1e-4)
"""Of a bin's largest or smallest mass: more than an exponential and the bin of a token can be off."""
SHARE_ERROR = tl.constexpr(1e-6)


@triton.jit
def count_kernel(
    LOGITS,
    PLAN,
    SCALES,
    BIN_COUNTS,
    stride,
    V,
    CHUNK: tl.constexpr,
):
    """BIN_COUNTS int32 [B, C, BINS]: tokens in every bin of a chunk; the last bin is not looked at."""
    row, chunk = tl.program_id(0), tl.program_id(1)
    if load_plan(PLAN, row, IS_FILTERED) != 0:
        logits = load_logits(LOGITS, row, stride, chunk * CHUNK + tl.arange(0, CHUNK), V)
        z = scaled(logits, load_scale(SCALES, row, INVERSE))
        bins = bins_of(z, load_scale(SCALES, row, LARGEST_Z), load_scale(SCALES, row, BINS_A_UNIT))
        counts = tl.zeros([BINS], tl.int32)
        if tl.min(bins, 0) < BINS - 1:
            counts = tl.histogram(bins, BINS)
        place = (row.to(tl.int64) * tl.num_programs(1) + chunk) * BINS
        tl.store(BIN_COUNTS + place + tl.arange(0, BINS), counts)


@triton.jit
def _row_counts(BIN_COUNTS, row, num_chunks, AT_ONCE: tl.constexpr):
    """int64 [BINS]: tokens of the whole row; none in the last bin."""
    bin_N = tl.arange(0, BINS)
    counts = tl.zeros([BINS], tl.int32)
    for start in range(0, num_chunks, AT_ONCE):
        chunk = start + tl.arange(0, AT_ONCE)[:, None]
        pointers = BIN_COUNTS + (row.to(tl.int64) * num_chunks + chunk) * BINS + bin_N[None, :]
        counts += tl.sum(tl.load(pointers, mask=chunk < num_chunks, other=0), 0)
    return tl.where(bin_N < BINS - 1, counts, 0).to(tl.int64)


@triton.jit
def bracket_kernel(
    PLAN,
    SCALES,
    TOTALS,
    BIN_COUNTS,
    num_chunks,
    AT_ONCE: tl.constexpr,
    SCALE: tl.constexpr,
):
    """One row a program: fills the plan's bins."""
    row = tl.program_id(0)
    if load_plan(PLAN, row, IS_FILTERED) != 0:
        bin_N = tl.arange(0, BINS)
        counts = _row_counts(BIN_COUNTS, row, num_chunks, AT_ONCE)
        top_k, top_p = load_plan(PLAN, row, TOP_K).to(tl.int64), load_scale(SCALES, row, TOP_P)
        has_top_k = (top_k > 0) & (tl.sum(counts, 0) >= top_k)
        least_bin = load_plan(PLAN, row, LEAST_BIN)
        kth_bin = tl.sum((tl.cumsum(counts, 0) < top_k).to(tl.int32), 0)
        kth_bin = tl.where(has_top_k, kth_bin, BINS - 1)
        border = tl.minimum(kth_bin, least_bin)

        # A token of bin b lies between b and b + 1 bins below the largest z.
        unit = 1.0 / load_scale(SCALES, row, BINS_A_UNIT)
        least_N = (exponential((-1.0 - bin_N) * unit) * (SCALE * (1 - BOUND_ERROR))).to(tl.int64) - 1
        most_N = (exponential((0.0 - bin_N) * unit) * (SCALE * (1 + BOUND_ERROR))).to(tl.int64) + 1
        least_N, most_N = counts * tl.maximum(least_N, 0), counts * most_N
        total = tl.load(TOTALS + row)
        total_least = tl.where(total > 0, total, tl.sum(tl.where(bin_N < border, least_N, 0), 0))
        total_most = tl.where(total > 0, total, tl.sum(tl.where(bin_N <= border, most_N, 0), 0))
        share = top_p.to(tl.float64)
        wanted_least = (total_least.to(tl.float64) * share * (1 - SHARE_ERROR)).to(tl.int64)
        wanted_most = (total_most.to(tl.float64) * share * (1 + SHARE_ERROR)).to(tl.int64) + 1
        last = tl.sum((tl.cumsum(least_N, 0) < wanted_most).to(tl.int32), 0)
        last = tl.minimum(last, tl.minimum(border, BINS - 2))
        first = tl.minimum(tl.sum((tl.cumsum(most_N, 0) < wanted_least).to(tl.int32), 0), last)
        first = tl.where(top_p < 1, first, border)
        last = tl.where(top_p < 1, last, border - 1)

        is_unseen = (bin_N < border) & ((bin_N < first) | (bin_N > last))
        missing = top_k - tl.sum(tl.where(is_unseen, counts, 0), 0)
        missing = tl.where(has_top_k & (kth_bin == border), missing, 0)
        plan = PLAN + row.to(tl.int64) * PLAN_FIELDS
        tl.store(plan + FIRST_BIN, first)
        tl.store(plan + LAST_BIN, last)
        tl.store(plan + BORDER_BIN, tl.where(total > 0, last, border))  # a whole row needs nothing below
        tl.store(plan + MISSING, missing.to(tl.int32))
