"""The output gate of a lightning block: rms_norm(x) * sigmoid(gate)."""

from torch import Tensor

from forklight_kernels.backend import Backend, backend_for
from forklight_kernels.checks import require_dims, require_same, require_shape
from forklight_kernels.gated_norm import naive, torch_cpu


def gated_norm(x_TD: Tensor, gate_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """rms_norm(x) * sigmoid(gate) in x's dtype, contiguous. Differentiable in x, gate and weight."""
    require_dims("x_TD", x_TD, 2, "[T, D]")
    require_shape("gate_TD", gate_TD, tuple(x_TD.shape), "the shape of x_TD")
    require_shape("weight_D", weight_D, (x_TD.shape[1],), "the width of x_TD")
    require_same(x_TD=x_TD, gate_TD=gate_TD, weight_D=weight_D)
    backend = backend_for(x_TD)
    if backend is Backend.NAIVE:
        return naive.gated_norm(x_TD, gate_TD, weight_D, eps)
    if backend is Backend.TRITON:
        from forklight_kernels.gated_norm import triton_gpu

        return triton_gpu.gated_norm(x_TD, gate_TD, weight_D, eps)
    return torch_cpu.gated_norm(x_TD, gate_TD, weight_D, eps)


__all__ = ["gated_norm"]
