"""The online softmax of one block of keys, the merge of splits and the last division.

Written once, so that prefill, a prompt in pieces and decode give a row the same bits whatever their tiles:
row maxima are exact, row sums run on the tensor core, every a * b + c is an explicit fma.
"""

import triton
import triton.language as tl

NOTHING = tl.constexpr(-1.0e30)
"""Maximum of a row that has seen no key: finite, so that differences of two of them are 0 and not NaN."""


@triton.jit
def start_split(BLOCK_M: tl.constexpr, D: tl.constexpr, COLUMNS: tl.constexpr):
    """Maximum, row sum (equal columns) and weighted values of no keys."""
    m = tl.full([BLOCK_M], NOTHING, tl.float32)
    return m, tl.zeros([BLOCK_M, COLUMNS], tl.float32), tl.zeros([BLOCK_M, D], tl.float32)


@triton.jit
def add_block(scores, v, m, sums, acc, scale, BLOCK_N: tl.constexpr, COLUMNS: tl.constexpr):
    """One block of keys. `scores` are plain q.k, -inf where a key is hidden: its weight is then exactly 0."""
    new_m = tl.maximum(m, tl.max(scores, 1) * scale)
    weights = tl.exp2(tl.fma(scores, scale, -new_m[:, None])).to(v.dtype)
    decay = tl.exp2(m - new_m)[:, None]
    ones = tl.full([BLOCK_N, COLUMNS], 1.0, v.dtype)
    sums = tl.dot(weights, ones, sums * decay, input_precision="ieee")
    acc = tl.dot(weights, v, acc * decay, input_precision="ieee")
    return new_m, sums, acc


@triton.jit
def row_sum(sums):
    """The columns are equal, so their maximum is the sum."""
    return tl.max(sums, 1)


@triton.jit
def merge(total_m, total_l, total_acc, m, l, acc):  # noqa: E741
    """The next split joins what came before it. Exact where either side has seen no key."""
    new_m = tl.maximum(total_m, m)
    x = tl.exp2(total_m - new_m)
    y = tl.exp2(m - new_m)
    total_l = tl.fma(total_l, x, l * y)
    total_acc = tl.fma(total_acc, x[:, None], acc * y[:, None])
    return new_m, total_l, total_acc


@triton.jit
def finish(total_l, total_acc):
    """Weighted mean of the values; zeros for a row that has seen no key."""
    has_keys = total_l > 0.0
    inverse = tl.where(has_keys, 1.0 / tl.where(has_keys, total_l, 1.0), 0.0)
    return total_acc * inverse[:, None]
