"""Rotary embedding of the first dims of a head, vectorised. Legend: T tokens, H heads, D head size."""

from functools import lru_cache

import torch
from torch import Tensor


def rope(x_THD: Tensor, positions_T: Tensor, rotary_dim: int, theta: float) -> Tensor:
    half = rotary_dim // 2
    frequencies = _frequencies(rotary_dim, theta, x_THD.device)
    angles_T1F = (positions_T.to(torch.float32)[:, None] * frequencies)[:, None, :]
    cos_T1F, sin_T1F = torch.cos(angles_T1F).to(x_THD.dtype), torch.sin(angles_T1F).to(x_THD.dtype)
    first, second, rest = x_THD[..., :half], x_THD[..., half:rotary_dim], x_THD[..., rotary_dim:]
    return torch.cat(
        (first * cos_T1F - second * sin_T1F, second * cos_T1F + first * sin_T1F, rest), dim=-1
    )


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _frequencies(rotary_dim: int, theta: float, device: torch.device) -> Tensor:
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.int64).to(torch.float32) / rotary_dim
    return (1.0 / (theta**exponents)).to(device)
