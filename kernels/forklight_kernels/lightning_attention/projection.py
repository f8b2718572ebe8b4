"""The projection's q|k|v as three views, whose gradients go back as one tensor where they are one.

Legend: T tokens, W = heads * 3 * head size.
"""

import torch
from torch import Tensor

from forklight_kernels.gradient import Context, needs_gradient
from forklight_kernels.heads import joined_heads, split_heads


def split_projection(x_TW: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [T, H, D] of a projection whose heads hold q | k | v side by side; torch's own split would
    make its backward pass copy the three gradients into one."""
    if needs_gradient(x_TW):
        q_THD, k_THD, v_THD = _Split.apply(x_TW, num_heads)
        return q_THD, k_THD, v_THD
    return _split(x_TW, num_heads)


def _split(x_TW: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    q_THD, k_THD, v_THD = split_heads(x_TW.view(len(x_TW), num_heads, x_TW.shape[1] // num_heads), 3)
    return q_THD, k_THD, v_THD


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x_TW: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
        return _split(x_TW, num_heads)

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return joined_heads(*gradients).flatten(1), None


class _Activate(torch.autograd.Function):
    """silu of q, k and v as one tensor."""

    @staticmethod
    def forward(ctx: Context, q_THD: Tensor, k_THD: Tensor, v_THD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_THW = joined_heads(q_THD, k_THD, v_THD)
        ctx.save_for_backward(x_THW)
        return _activated_heads(x_THW)

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x_THW,) = ctx.saved_tensors
        return split_heads(torch.ops.aten.silu_backward(joined_heads(*gradients), x_THW), 3)


def _activated_heads(x_THW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q_THD, k_THD, v_THD = split_heads(torch.nn.functional.silu(x_THW), 3)
    return q_THD, k_THD, v_THD


def activated(qkv: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """silu of q, k and v, in one pass where they are views of one tensor."""
    if needs_gradient(*qkv):
        q_THD, k_THD, v_THD = _Activate.apply(*qkv)
        return q_THD, k_THD, v_THD
    return _activated_heads(joined_heads(*qkv))
