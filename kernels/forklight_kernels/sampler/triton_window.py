"""What a row's filters say before any token is looked at, and the scale on which its tokens are counted.

A token's bin is a whole number that falls as its logit grows: BINS - 1 of them share the window from the
row's largest z down to where nothing can be drawn; the last is everything below. The kernels agree about bins
as all call `bins_of`; bins only say where to look closely, so no result depends on them.
Legend: B sequences, V vocabulary.
"""

import triton
import triton.language as tl

from forklight_kernels.sampler.triton_masses import block_masses, inverse_of, load_row_blocks, scaled
from forklight_kernels.token_stats.triton_statistics import product

BINS = tl.constexpr(256)

# PLAN, int32 [B, 8]: what each row does.
PLAN_FIELDS = tl.constexpr(8)
IS_FILTERED = tl.constexpr(0)
TOP_K = tl.constexpr(1)  # 0: none
LEAST = tl.constexpr(2)  # smallest logit that min_p allows, as `ordered` has it
LEAST_BIN = tl.constexpr(3)  # its bin; BINS - 1: none
FIRST_BIN = tl.constexpr(4)  # top_p's border is in bins FIRST_BIN ... LAST_BIN; empty without top_p
LAST_BIN = tl.constexpr(5)
BORDER_BIN = tl.constexpr(6)  # that of top_k and min_p is in this one; BINS - 1 where they take nothing
MISSING = tl.constexpr(7)  # tokens that top_k allows among those of these bins; 0: it is not top_k's border

# SCALES, fp32 [B, 4]
SCALE_FIELDS = tl.constexpr(4)
LARGEST_Z = tl.constexpr(0)
INVERSE = tl.constexpr(1)  # of the temperature
BINS_A_UNIT = tl.constexpr(2)
TOP_P = tl.constexpr(3)

SMALLEST = tl.constexpr(-0x80000000)
SAFETY = tl.constexpr(0.01)
"""Of a logarithm: keeps rounding from leaving a token out that belongs in."""
SLACK = tl.constexpr(1e-3)
"""The window is this much deeper than it must be, so that its end is inside."""


@triton.jit
def ordered(logits):
    """fp32 as integers in the same order."""
    bits = logits.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def from_ordered(numbers):
    return (numbers ^ ((numbers >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def bins_of(z, top, bins_a_unit):
    """int32; a larger z never has a larger bin."""
    place = product(top - z, tl.full(z.shape, 1.0, tl.float32) * bins_a_unit)
    return tl.minimum(place, BINS - 1.0).to(tl.int32)


@triton.jit
def load_plan(PLAN, row, FIELD: tl.constexpr):
    return tl.load(PLAN + row.to(tl.int64) * PLAN_FIELDS + FIELD)


@triton.jit
def load_scale(SCALES, row, FIELD: tl.constexpr):
    return tl.load(SCALES + row.to(tl.int64) * SCALE_FIELDS + FIELD)


@triton.jit
def _least_allowed(largest, temperature, min_p):
    """[1], ordered: the smallest logit with logit / temperature >= largest / temperature + log(min_p)."""
    one = tl.zeros([1], tl.float64)
    wide = temperature.to(tl.float64)
    limit = largest.to(tl.float64) / wide + tl.log(one + tl.minimum(min_p, 1.0).to(tl.float64))
    guess = ordered((limit * wide).to(tl.float32))
    near = guess[:, None] - 8 + tl.arange(0, 16)[None, :]  # rounding moved the guess by two at most
    is_allowed = from_ordered(near).to(tl.float64) / wide >= limit[:, None]
    return tl.minimum(
        tl.min(tl.where(is_allowed, near, 0x7FFFFFFF), 1), ordered(largest + one.to(tl.float32))
    )


@triton.jit(
    do_not_specialize_on_alignment=["TEMPERATURES", "TOP_PS", "TOP_KS", "MIN_PS"],
)
def window_kernel(
    TEMPERATURES,
    TOP_PS,
    TOP_KS,
    MIN_PS,
    BLOCKS,
    PLAN,
    SCALES,
    TOTALS,
    V,
    num_blocks,
    HAS_TOP_KS: tl.constexpr,
    HAS_MIN_PS: tl.constexpr,
    LANES: tl.constexpr,
    SCALE: tl.constexpr,
    DEEPEST: tl.constexpr,
):
    """One row a program. TOTALS int64 [B]: what top_p is a share of, 0 where other filters decide it.

    Below DEEPEST a mass is 0. Nor can a token be in the nucleus of a whole row below (1 - top_p) / V of it:
    all such together are less than may be left out.
    """
    row = tl.program_id(0)
    temperature, top_p = tl.load(TEMPERATURES + row), tl.load(TOP_PS + row)
    top_k, min_p = 0, 0.0
    if HAS_TOP_KS:
        top_k = tl.load(TOP_KS + row)
        top_k = tl.where((top_k > 0) & (top_k < V), top_k, 0)
    if HAS_MIN_PS:
        min_p = tl.load(MIN_PS + row)
    is_filtered = (temperature > 0) & ((top_p < 1) | (top_k > 0) | (min_p > 0))
    plan = PLAN + row.to(tl.int64) * PLAN_FIELDS
    tl.store(plan + IS_FILTERED, is_filtered.to(tl.int32))
    if is_filtered:
        one = tl.arange(0, 1)
        inverse = inverse_of(temperature)
        tops, sums = load_row_blocks(BLOCKS, row, num_blocks, False, LANES)
        top = tl.max(tl.max(tops, 1), 0)
        total = tl.sum(tl.sum(block_masses(tops, sums, top, SCALE), 1), 0)
        is_whole = (top_k == 0) & (min_p <= 0)
        depth = tl.full([1], DEEPEST, tl.float32)
        least = tl.full([1], SMALLEST, tl.int32)
        least_z = tl.full([1], 0.0, tl.float32)
        if HAS_MIN_PS:  # noqa: SIM102 (known when compiled; the other is not)
            if min_p > 0:
                raw_tops, _ = load_row_blocks(BLOCKS, row, num_blocks, True, LANES)
                least = _least_allowed(tl.max(tl.max(raw_tops, 1), 0), temperature, min_p)
                least_z = scaled(from_ordered(least), inverse)
                depth = tl.minimum(depth, top - least_z)
        if is_whole:
            left_out = (total.to(tl.float64) / SCALE).to(tl.float32) * ((1 - top_p) / V)
            depth = tl.minimum(depth, -tl.log(left_out + one.to(tl.float32)) + SAFETY)
        bins_a_unit = tl.full([1], BINS - 1, tl.float32) / (depth * (1 + SLACK) + SLACK)
        least_bin = tl.where(least > SMALLEST, bins_of(least_z, top, bins_a_unit), BINS - 1)
        scales = SCALES + row.to(tl.int64) * SCALE_FIELDS
        tl.store(plan + TOP_K, top_k)
        tl.store(plan + LEAST + one, least)
        tl.store(plan + LEAST_BIN + one, least_bin)
        tl.store(scales + LARGEST_Z, top)
        tl.store(scales + INVERSE, inverse)
        tl.store(scales + BINS_A_UNIT + one, bins_a_unit)
        tl.store(scales + TOP_P, top_p)
        tl.store(TOTALS + row, tl.where(is_whole, total, 0))
