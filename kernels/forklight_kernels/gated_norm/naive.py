"""RMSNorm times a sigmoid gate, by its formula. Legend: T tokens, D width."""

import torch
from torch import Tensor

from forklight_kernels.rms_norm.naive import rms_norm


def gated_norm(x_TD: Tensor, gate_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    return torch.sigmoid(gate_TD) * rms_norm(x_TD, weight_D, eps)
