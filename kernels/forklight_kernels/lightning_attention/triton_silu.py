"""silu inside the lightning kernels, and as passes of its own over q, k and v.

One expression for every kernel that activates: the same number must get the same bits in prefill, in decode
and in the open chunk. Legend: T tokens, H heads, D head size.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from forklight_kernels.triton_math import sigmoid, silu

ROWS = 32
"""Tokens a program takes in the passes of their own."""

Parts = tuple[Tensor, Tensor, Tensor]


@triton.jit
def active(x):
    """silu, computed in fp32, rounded to the input's dtype."""
    return silu(x.to(tl.float32)).to(x.dtype)


@triton.jit
def through_silu(dy, x):
    """The gradient before silu, in fp32, from the one after it."""
    wide = x.to(tl.float32)
    gate = sigmoid(wide)
    return dy * (gate * (1.0 + wide * (1.0 - gate)))


@triton.jit
def _silu_kernel(
    X0, X1, X2, Y0, Y1, Y2, num_tokens,
    x0_row, x0_head, x1_row, x1_head, x2_row, x2_head,
    y0_row, y0_head, y1_row, y1_head, y2_row, y2_head,
    D: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    part, h = tl.program_id(0), tl.program_id(1)
    t = (tl.program_id(2) * R + tl.arange(0, R)).to(tl.int64)[:, None]
    d = tl.arange(0, D)[None, :]
    if part == 0:
        x, y = X0 + t * x0_row + h * x0_head + d, Y0 + t * y0_row + h * y0_head + d
    elif part == 1:
        x, y = X1 + t * x1_row + h * x1_head + d, Y1 + t * y1_row + h * y1_head + d
    else:
        x, y = X2 + t * x2_row + h * x2_head + d, Y2 + t * y2_row + h * y2_head + d
    valid = t < num_tokens
    tl.store(y, active(tl.load(x, mask=valid, other=0.0)), mask=valid)


def activate(parts: Parts, out: Parts) -> None:
    """out = silu(parts), each [T, H, D] with any strides over tokens and heads."""
    _launch(parts, out, num_parts=3)


def activated(x_THD: Tensor) -> Tensor:
    """silu of one tensor, contiguous: for the rows that enter the open chunk."""
    y_THD = torch.empty(x_THD.shape, dtype=x_THD.dtype, device=x_THD.device)
    _launch((x_THD, x_THD, x_THD), (y_THD, y_THD, y_THD), num_parts=1)
    return y_THD


def _launch(parts: Parts, out: Parts, num_parts: int) -> None:
    num_tokens, num_heads, head_size = parts[0].shape
    if num_tokens == 0:
        return
    strides = [stride for part in (*parts, *out) for stride in part.stride()[:2]]
    grid = (num_parts, num_heads, triton.cdiv(num_tokens, ROWS))
    _silu_kernel[grid](*parts, *out, num_tokens, *strides, head_size, ROWS, num_warps=4)
