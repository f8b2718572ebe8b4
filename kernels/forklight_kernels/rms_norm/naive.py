"""Root-mean-square norm by its formula. Legend: T tokens, D width."""

import torch
from torch import Tensor

from forklight_kernels.packing import accumulation_dtype


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    wide_TD = x_TD.to(accumulation_dtype(x_TD))
    mean_square_T1 = wide_TD.pow(2).mean(dim=-1, keepdim=True)
    return weight_D * (wide_TD / torch.sqrt(mean_square_T1 + eps)).to(x_TD.dtype)
