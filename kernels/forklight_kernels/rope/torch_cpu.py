"""Rotary embedding of a head's first dims, vectorised. Legend: T tokens, H heads, D head size, F pairs."""

import torch
from torch import Tensor

from forklight_kernels.packing import accumulation_dtype
from forklight_kernels.rope.frequencies import rotary_frequencies


def rope(x_THD: Tensor, positions_T: Tensor, rotary_dim: int, theta: float) -> Tensor:
    half = rotary_dim // 2
    wide = accumulation_dtype(x_THD)
    # The angle is rounded to fp32 as the published code does; the rest is wide, with one rounding.
    angles_TF = positions_T.to(torch.float32)[:, None] * rotary_frequencies(rotary_dim, theta, x_THD.device)
    angles_T1F = angles_TF.to(wide)[:, None, :]
    cos_T1F, sin_T1F = torch.cos(angles_T1F), torch.sin(angles_T1F)
    turned, rest = x_THD[..., :rotary_dim].to(wide), x_THD[..., rotary_dim:]
    first, second = turned[..., :half], turned[..., half:]
    turns = (first * cos_T1F - second * sin_T1F, second * cos_T1F + first * sin_T1F)
    return torch.cat((*(turn.to(x_THD.dtype) for turn in turns), rest), dim=-1)
