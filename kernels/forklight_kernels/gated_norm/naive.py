"""RMSNorm times a sigmoid gate, by its formula: wide to the end, one rounding. Legend: T tokens, D width."""

import torch
from torch import Tensor

from forklight_kernels.packing import accumulation_dtype
from forklight_kernels.rms_norm.naive import rms_norm


def gated_norm(x_TD: Tensor, gate_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    wide = accumulation_dtype(x_TD)
    normed_TD = rms_norm(x_TD.to(wide), weight_D.to(wide), eps)
    return (torch.sigmoid(gate_TD.to(wide)) * normed_TD).to(x_TD.dtype)
