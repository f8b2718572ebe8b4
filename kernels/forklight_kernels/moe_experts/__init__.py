"""Top-k mixture of SwiGLU experts: sum over slots of weight * w2(silu(w1 x) * (w3 x))."""

import torch
from torch import Tensor

from forklight_kernels.backend import Backend, backend_for
from forklight_kernels.checks import (
    MAX_EXPERTS,
    require,
    require_dims,
    require_dtype,
    require_same,
    require_shape,
)
from forklight_kernels.gradient import needs_gradient
from forklight_kernels.moe_experts import naive, torch_cpu
from forklight_kernels.moe_experts.types import ExpertPart
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
        _fits(x_TD, w13_EFD, w2_EID) and _is_routed(x_TD, weights_TK, experts_TK) and _joins(x_TD, residual)
    ):
        _refuse_matrices(x_TD, w13_EFD, w2_EID)
        _refuse_routing(x_TD, weights_TK, experts_TK)
        _refuse_residual(x_TD, residual)
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
    if not (_fits_part(x_TD, part, residual) and _is_routed(x_TD, weights_TK, experts_TK)):
        _refuse_part(x_TD, part, residual)
        _refuse_routing(x_TD, weights_TK, experts_TK)
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


def _fits(x_TD: Tensor, w13_EFD: Tensor, w2_EID: Tensor) -> bool:
    """This and the next two are the tests of the refusals without their messages, which cost too much."""
    if x_TD.dim() != 2 or w2_EID.dim() != 3:
        return False
    num_experts, inner, width = w2_EID.shape
    return (
        1 <= num_experts <= MAX_EXPERTS
        and x_TD.shape[1] == width
        and w13_EFD.shape == (num_experts, 2 * inner, width)
        and x_TD.dtype == w13_EFD.dtype == w2_EID.dtype
        and x_TD.device == w13_EFD.device == w2_EID.device
    )


def _is_routed(x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor) -> bool:
    shape = weights_TK.shape
    return (
        len(shape) == 2
        and shape == experts_TK.shape
        and shape[0] == x_TD.shape[0]
        and shape[1] > 0
        and weights_TK.is_floating_point()
        and experts_TK.dtype in (torch.int64, torch.int32)
        and x_TD.device == weights_TK.device == experts_TK.device
    )


def _joins(x_TD: Tensor, residual: Residual | None) -> bool:
    if residual is None:
        return True
    joined = residual.x_TD
    return joined.shape == x_TD.shape and joined.dtype == x_TD.dtype and joined.device == x_TD.device


def _refuse_residual(x_TD: Tensor, residual: Residual | None) -> None:
    if residual is not None:
        require_same(x=x_TD, residual=residual.x_TD)
        require_shape("residual", residual.x_TD, tuple(x_TD.shape), "x")


def _fits_part(x_TD: Tensor, part: ExpertPart, residual: Residual | None) -> bool:
    w13_EFD, w2_EID = part.w13_EFD, part.w2_EID
    if x_TD.dim() != 2 or w13_EFD.dim() != 3 or w2_EID.dim() != 3:
        return False
    joined = x_TD if residual is None else residual.x_TD
    return (
        _is_cut(x_TD, w13_EFD, w2_EID)
        and (residual is None or joined.shape == (x_TD.shape[0], w2_EID.shape[2]))
        and x_TD.dtype == joined.dtype == w13_EFD.dtype == w2_EID.dtype
        and x_TD.device == joined.device == w13_EFD.device == w2_EID.device
    )


def _is_cut(x_TD: Tensor, w13_EFD: Tensor, w2_EID: Tensor) -> bool:
    """w13 lacks as large a share of hidden columns as w2 of output columns."""
    (num_experts, double_inner, width), (num_down, inner, part_width) = w13_EFD.shape, w2_EID.shape
    return (
        1 <= num_experts == num_down <= MAX_EXPERTS
        and x_TD.shape[1] == width
        and 0 < part_width <= width
        and width % part_width == 0
        and double_inner * (width // part_width) == 2 * inner
    )


def _refuse_part(x_TD: Tensor, part: ExpertPart, residual: Residual | None) -> None:
    w13_EFD, w2_EID = part.w13_EFD, part.w2_EID
    require_dims("x", x_TD, 2, "[T, D]")
    require_dims("w13", w13_EFD, 3, "[E, 2 I / n, D]")
    require_dims("w2", w2_EID, 3, "[E, I, D / n]")
    require_same(x=x_TD, w13=w13_EFD, w2=w2_EID)
    require(
        _is_cut(x_TD, w13_EFD, w2_EID),
        f"x is {tuple(x_TD.shape)}, w13 {tuple(w13_EFD.shape)} and w2 {tuple(w2_EID.shape)}; "
        f"expected [T, D], [E, 2 I / n, D] and [E, I, D / n] for one n, and 1 to {MAX_EXPERTS} experts",
    )
    if residual is not None:
        require_same(x=x_TD, residual=residual.x_TD)
        rows_and_columns = (len(x_TD), w2_EID.shape[2])
        require_shape("residual", residual.x_TD, rows_and_columns, "x's rows and w2's columns")


def _refuse_matrices(x_TD: Tensor, w13_EFD: Tensor, w2_EID: Tensor) -> None:
    require_dims("x", x_TD, 2, "[T, D]")
    require_dims("w2", w2_EID, 3, "[E, I, D]")
    require_same(x=x_TD, w13=w13_EFD, w2=w2_EID)
    num_experts, inner, width = w2_EID.shape
    require_shape("w13", w13_EFD, (num_experts, 2 * inner, width), "w2's [E, I, D]: [E, 2 I, D]")
    require(width == x_TD.shape[1], f"x has {x_TD.shape[1]} columns and w2 {width}; they must be equal")
    require(
        1 <= num_experts <= MAX_EXPERTS, f"w2 has {num_experts} experts; 1 to {MAX_EXPERTS} are supported"
    )


def _refuse_routing(x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor) -> None:
    require_dims("weights", weights_TK, 2, "[T, K]")
    require(
        len(weights_TK) == len(x_TD) and weights_TK.shape[1] > 0 and weights_TK.is_floating_point(),
        f"weights is {weights_TK.dtype} of shape {tuple(weights_TK.shape)}; expected a float [T, K] with "
        f"{len(x_TD)} rows, from x",
    )
    require_shape("experts", experts_TK, tuple(weights_TK.shape), "weights")
    require_dtype("experts", experts_TK, (torch.int64, torch.int32))
    require(
        weights_TK.device == x_TD.device == experts_TK.device,
        f"x is on {x_TD.device}, weights on {weights_TK.device} and experts on {experts_TK.device}; "
        "they must be on one device",
    )


__all__ = ["ExpertPart", "moe_experts", "moe_experts_part"]
