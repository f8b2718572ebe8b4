"""The output gate of a lightning block: rms_norm(x) * sigmoid(gate)."""

from torch import Tensor

from forklight_kernels.backend import uses_naive
from forklight_kernels.gated_norm import naive, torch_cpu


def gated_norm(x_TD: Tensor, gate_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """rms_norm(x) * sigmoid(gate), in x's dtype. Differentiable in x, gate and weight."""
    if uses_naive():
        return naive.gated_norm(x_TD, gate_TD, weight_D, eps)
    return torch_cpu.gated_norm(x_TD, gate_TD, weight_D, eps)


__all__ = ["gated_norm"]
