"""RMSNorm: weight * x / sqrt(mean(x^2) + eps), statistics in fp32."""

from torch import Tensor

from forklight_kernels.backend import uses_naive
from forklight_kernels.rms_norm import naive, torch_cpu


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """The normed rows in x's dtype. Differentiable in x and weight."""
    implementation = naive if uses_naive() else torch_cpu
    return implementation.rms_norm(x_TD, weight_D, eps)


__all__ = ["rms_norm"]
