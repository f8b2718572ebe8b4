"""RMSNorm: weight * x / sqrt(mean(x^2) + eps), statistics in fp32."""

from torch import Tensor

from forklight_kernels.backend import Backend, backend_for
from forklight_kernels.checks import require_dims, require_same, require_shape
from forklight_kernels.rms_norm import naive, torch_cpu


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """The normed rows in x's dtype, contiguous. Differentiable in x and weight."""
    require_dims("x_TD", x_TD, 2, "[T, D]")
    require_shape("weight_D", weight_D, (x_TD.shape[1],), "the width of x_TD")
    require_same(x_TD=x_TD, weight_D=weight_D)
    backend = backend_for(x_TD)
    if backend is Backend.NAIVE:
        return naive.rms_norm(x_TD, weight_D, eps)
    if backend is Backend.TRITON:
        from forklight_kernels.rms_norm import triton_gpu

        return triton_gpu.rms_norm(x_TD, weight_D, eps)
    return torch_cpu.rms_norm(x_TD, weight_D, eps)


__all__ = ["rms_norm"]
