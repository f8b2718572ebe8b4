"""Top-k mixture of SwiGLU experts: sum over slots of weight * w2(silu(w1 x) * (w3 x))."""

from torch import Tensor

from forklight_kernels.backend import uses_naive
from forklight_kernels.moe_experts import naive, torch_cpu


def moe_experts(
    x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, w13_EFD: Tensor, w2_EID: Tensor
) -> Tensor:
    """The mixed output [T, D]. w13 holds w1 above w3, w2 is transposed. Differentiable in all floats."""
    if uses_naive():
        return naive.moe_experts(x_TD, weights_TK, experts_TK, w13_EFD, w2_EID)
    return torch_cpu.moe_experts(x_TD, weights_TK, experts_TK, w13_EFD, w2_EID)


__all__ = ["moe_experts"]
