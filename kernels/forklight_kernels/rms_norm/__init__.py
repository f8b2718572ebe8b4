"""RMSNorm: weight * x / sqrt(mean(x^2) + eps), statistics in fp32."""

from torch import Tensor

from forklight_kernels.backend import uses_naive
from forklight_kernels.rms_norm import naive, torch_cpu


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """The normed rows in x's dtype. Differentiable in x and weight."""
    if uses_naive():
        return naive.rms_norm(x_TD, weight_D, eps)
    return torch_cpu.rms_norm(x_TD, weight_D, eps)


__all__ = ["rms_norm"]
