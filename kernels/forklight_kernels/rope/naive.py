"""Rotary embedding of the first dims of a head, pair by pair. Legend: T tokens, H heads, D head size."""

import torch
from torch import Tensor


def rope(x_THD: Tensor, positions_T: Tensor, rotary_dim: int, theta: float) -> Tensor:
    half = rotary_dim // 2
    columns = list(x_THD.unbind(-1))
    for pair in range(half):
        frequency = 1.0 / torch.tensor(theta, dtype=torch.float32) ** (2 * pair / rotary_dim)
        angle_T1 = (positions_T.to(torch.float32) * frequency).to(x_THD.dtype)[:, None]
        first_TH, second_TH = x_THD[..., pair], x_THD[..., pair + half]
        columns[pair] = first_TH * torch.cos(angle_T1) - second_TH * torch.sin(angle_T1)
        columns[pair + half] = second_TH * torch.cos(angle_T1) + first_TH * torch.sin(angle_T1)
    return torch.stack(columns, dim=-1)
