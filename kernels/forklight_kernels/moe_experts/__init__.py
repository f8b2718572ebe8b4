"""Top-k mixture of SwiGLU experts: sum over slots of weight * w2(silu(w1 x) * (w3 x))."""

from torch import Tensor

from forklight_kernels.backend import Backend, backend_for
from forklight_kernels.gradient import needs_gradient
from forklight_kernels.moe_experts import naive, torch_cpu, torch_spread
from forklight_kernels.moe_experts.request import (
    fits,
    fits_part,
    fits_spread,
    is_routed,
    joins,
    refuse_matrices,
    refuse_part,
    refuse_residual,
    refuse_routing,
    refuse_spread,
)
from forklight_kernels.moe_experts.types import ExpertPart, ExpertSpread, RowTrip
from forklight_kernels.residual import Residual


def moe_experts(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    w13_EFD: Tensor,
    w2_EID: Tensor,
    residual: Residual | None = None,
) -> Tensor:
    """The mixed output [T, D]; with a residual alpha * residual + beta * (the mixture).

    w13 holds w1 above w3, w2 is transposed. Differentiable in all floats.
    """
    if not (
        fits(x_TD, w13_EFD, w2_EID) and is_routed(x_TD, weights_TK, experts_TK) and joins(x_TD, residual)
    ):
        refuse_matrices(x_TD, w13_EFD, w2_EID)
        refuse_routing(x_TD, weights_TK, experts_TK)
        refuse_residual(x_TD, residual)
    backend = backend_for(x_TD)
    if backend is Backend.TRITON:
        from forklight_kernels.moe_experts import triton_gpu

        return triton_gpu.moe_experts(x_TD, weights_TK, experts_TK, w13_EFD, w2_EID, residual)
    if backend is Backend.NAIVE:
        return naive.moe_experts(x_TD, weights_TK, experts_TK, w13_EFD, w2_EID, residual)
    return torch_cpu.moe_experts(x_TD, weights_TK, experts_TK, w13_EFD, w2_EID, residual)


def moe_experts_part(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    part: ExpertPart,
    residual: Residual | None = None,
) -> Tensor:
    """This process's columns [T, D / n] of what `moe_experts` gives, and on a GPU their bits. No gradient.

    The residual is these columns of it. All processes call it with the same x, weights and experts.
    """
    if not (fits_part(x_TD, part, residual) and is_routed(x_TD, weights_TK, experts_TK)):
        refuse_part(x_TD, part, residual)
        refuse_routing(x_TD, weights_TK, experts_TK)
    if needs_gradient(x_TD, weights_TK, part.w13_EFD, part.w2_EID):
        raise ValueError("experts cut into parts have no gradient; call them under torch.no_grad()")
    arguments = (x_TD, weights_TK, experts_TK, part, residual)
    backend = backend_for(x_TD)
    if backend is Backend.TRITON:
        from forklight_kernels.moe_experts import triton_gpu

        return triton_gpu.moe_experts_part(*arguments)
    if backend is Backend.NAIVE:
        return naive.moe_experts_part(*arguments)
    return torch_cpu.moe_experts_part(*arguments)


def moe_experts_spread(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    spread: ExpertSpread,
    residual: Residual | None = None,
) -> Tensor:
    """What `moe_experts` gives for this process's tokens, bits included, where each process holds some
    experts whole. Differentiable in all floats: own experts get the gradient of every process's rows.

    All processes call it together, each with tokens of its own or none, forward and backward.
    """
    if not (fits_spread(x_TD, spread, residual) and is_routed(x_TD, weights_TK, experts_TK)):
        refuse_spread(x_TD, spread, residual)
        refuse_routing(x_TD, weights_TK, experts_TK)
    backend = backend_for(x_TD)
    if backend is Backend.TRITON:
        from forklight_kernels.moe_experts import triton_spread

        return triton_spread.moe_experts_spread(x_TD, weights_TK, experts_TK, spread, residual)
    if backend is Backend.NAIVE:
        return naive.moe_experts_spread(x_TD, weights_TK, experts_TK, spread, residual)
    return torch_spread.moe_experts_spread(x_TD, weights_TK, experts_TK, spread, residual)


__all__ = ["ExpertPart", "ExpertSpread", "RowTrip", "moe_experts", "moe_experts_part", "moe_experts_spread"]
