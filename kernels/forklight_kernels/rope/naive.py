"""Rotary embedding of the first dims of a head, pair by pair; one rounding.

Legend: T tokens, H heads, D head size.
"""

import torch
from torch import Tensor

from forklight_kernels.packing import accumulation_dtype
from forklight_kernels.rope.frequencies import rotary_frequencies


def rope(x_THD: Tensor, positions_T: Tensor, rotary_dim: int, theta: float) -> Tensor:
    half = rotary_dim // 2
    wide = accumulation_dtype(x_THD)
    columns = list(x_THD.unbind(-1))
    for pair, frequency in enumerate(rotary_frequencies(rotary_dim, theta, x_THD.device)):
        # The angle is rounded to fp32 as the published code does.
        angle_T1 = (positions_T.to(torch.float32) * frequency).to(wide)[:, None]
        first_TH, second_TH = x_THD[..., pair].to(wide), x_THD[..., pair + half].to(wide)
        cos_T1, sin_T1 = torch.cos(angle_T1), torch.sin(angle_T1)
        columns[pair] = (first_TH * cos_T1 - second_TH * sin_T1).to(x_THD.dtype)
        columns[pair + half] = (second_TH * cos_T1 + first_TH * sin_T1).to(x_THD.dtype)
    return torch.stack(columns, dim=-1)
