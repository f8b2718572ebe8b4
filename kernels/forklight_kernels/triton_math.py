"""Elementwise arithmetic that kernels share, so that two of them cannot differ in a bit. fp32 in, fp32 out.

None of these has a product that feeds a sum, so the compiler has nothing to contract.
"""

import triton
import triton.language as tl

MINUS_LOG2_E = tl.constexpr(-1.4426950408889634)


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(x * MINUS_LOG2_E))


@triton.jit
def silu(x):
    """x / (1 + exp(-x)): the same bits as tl.exp gives, less its negation."""
    return x / (1.0 + tl.exp2(x * MINUS_LOG2_E))
