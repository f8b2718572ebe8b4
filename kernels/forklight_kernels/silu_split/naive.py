"""silu, then q, k and v out of each head. Legend: T tokens, W = heads * 3 * head size."""

import torch
from torch import Tensor


def silu_split(x_TW: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    q_THD, k_THD, v_THD = (x_TW * torch.sigmoid(x_TW)).view(len(x_TW), num_heads, 3, -1).unbind(2)
    return q_THD, k_THD, v_THD
