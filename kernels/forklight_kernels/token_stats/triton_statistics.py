"""From logits to log-probability and entropy: the arithmetic whose bits training and generation share.

A vocabulary block becomes (largest z, sum p, sum p (z - largest)), p = exp(z - largest); blocks merge to a
row. Bits do not depend on the kernel that a helper is inlined in: every sum is one fixed tree of additions of
two numbers, which no layout, tile or number of warps can reorder, and no product feeds an addition that a
compiler may contract (`product` hides it in an fma with zero).
Legend: R rows, N numbers a row, a power of two.
"""

import triton
import triton.language as tl

NEGLIGIBLE = tl.constexpr(-1e30)
"""Logit of a place beyond the vocabulary: its exponential is exactly 0, no difference of two is nan."""
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def product(a, b):
    """a * b, rounded for itself: an fma cannot be contracted with the addition that follows."""
    return tl.fma(a, b, tl.zeros_like(a))


@triton.jit
def exponential(x):
    """exp of numbers <= 0, by the hardware's power of two."""
    return tl.exp2(x * LOG2_E)


@triton.jit
def fold(x, LEVELS: tl.constexpr):
    """Row sums of x [R, N], N = 2^LEVELS: neighbours first, then left half plus right half until one is left.

    Neighbours lie in one thread in every layout, and so do the halves of a product's tile down to 8 columns.
    """
    if LEVELS > 0:
        x = tl.sum(tl.reshape(x, (x.shape[0], x.shape[1] // 2, 2)), 2)
    for _ in tl.static_range(LEVELS - 1):
        x = tl.sum(tl.reshape(x, (x.shape[0], 2, x.shape[1] // 2)), 1)
    return tl.reshape(x, (x.shape[0],))


@triton.jit
def block_exponentials(z_RN):
    """(largest z, z - largest, exp(z - largest)) of every vocabulary block, a row each."""
    top_R = tl.max(z_RN, 1)
    below_RN = z_RN - top_R[:, None]
    return top_R, below_RN, exponential(below_RN)


@triton.jit
def merge_sums(tops_RN, sums_RN, LEVELS: tl.constexpr):
    """(largest z of the row, sum of exp(z - largest)) from its blocks; an absent block has sum 0."""
    top_R = tl.max(tops_RN, 1)
    weights_RN = exponential(tops_RN - top_R[:, None])
    return top_R, fold(product(sums_RN, weights_RN), LEVELS)


@triton.jit
def merge_moments(tops_RN, sums_RN, moments_RN, top_R, LEVELS: tl.constexpr):
    """Sum of exp(z - largest) (z - largest) of the row; its blocks had their own largest z."""
    below_RN = tops_RN - top_R[:, None]
    moved_RN = tl.fma(sums_RN, below_RN, moments_RN)
    return fold(product(moved_RN, exponential(below_RN)), LEVELS)


@triton.jit
def log_probability(z, top, total):
    """log p of a token with logit z in a row whose exponentials above `top` sum to `total`."""
    return (z - top) - tl.log(total)
