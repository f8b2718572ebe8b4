"""silu and split into views; the backward pass reads the three gradients as one tensor where they are one.

Legend: T tokens, W = heads * 3 * head size.
"""

import torch
from torch import Tensor
from torch.nn.functional import silu

from forklight_kernels.gradient import Context, needs_gradient
from forklight_kernels.heads import joined_heads


def silu_split(x_TW: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    if needs_gradient(x_TW):
        q_THD, k_THD, v_THD = _SiluSplit.apply(x_TW, num_heads)
        return q_THD, k_THD, v_THD
    return _split(silu(x_TW), num_heads)


def _split(active_TW: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    q_THD, k_THD, v_THD = active_TW.view(len(active_TW), num_heads, -1).chunk(3, dim=-1)
    return q_THD, k_THD, v_THD


class _SiluSplit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x_TW: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(x_TW)
        return _split(silu(x_TW), num_heads)

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x_TW,) = ctx.saved_tensors
        dactive_TW = joined_heads(*gradients).reshape(x_TW.shape)
        return torch.ops.aten.silu_backward(dactive_TW, x_TW), None
