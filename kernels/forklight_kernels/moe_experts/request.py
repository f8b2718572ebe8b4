"""What the experts' doors refuse before any work, on every backend.

Legend: T tokens, K slots, D width, E experts, I expert width, n processes.
"""

import torch
from torch import Tensor

from forklight_kernels.checks import (
    MAX_EXPERTS,
    require,
    require_dims,
    require_dtype,
    require_same,
    require_shape,
)
from forklight_kernels.moe_experts.types import ExpertPart, ExpertSpread
from forklight_kernels.residual import Residual


def fits(x_TD: Tensor, w13_EFD: Tensor, w2_EID: Tensor) -> bool:
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


def is_routed(x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor) -> bool:
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


def joins(x_TD: Tensor, residual: Residual | None) -> bool:
    if residual is None:
        return True
    joined = residual.x_TD
    return joined.shape == x_TD.shape and joined.dtype == x_TD.dtype and joined.device == x_TD.device


def refuse_residual(x_TD: Tensor, residual: Residual | None) -> None:
    if residual is not None:
        require_same(x=x_TD, residual=residual.x_TD)
        require_shape("residual", residual.x_TD, tuple(x_TD.shape), "x")


def fits_part(x_TD: Tensor, part: ExpertPart, residual: Residual | None) -> bool:
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


def refuse_part(x_TD: Tensor, part: ExpertPart, residual: Residual | None) -> None:
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


def refuse_matrices(x_TD: Tensor, w13_EFD: Tensor, w2_EID: Tensor) -> None:
    require_dims("x", x_TD, 2, "[T, D]")
    require_dims("w2", w2_EID, 3, "[E, I, D]")
    require_same(x=x_TD, w13=w13_EFD, w2=w2_EID)
    num_experts, inner, width = w2_EID.shape
    require_shape("w13", w13_EFD, (num_experts, 2 * inner, width), "w2's [E, I, D]: [E, 2 I, D]")
    require(width == x_TD.shape[1], f"x has {x_TD.shape[1]} columns and w2 {width}; they must be equal")
    require(
        1 <= num_experts <= MAX_EXPERTS, f"w2 has {num_experts} experts; 1 to {MAX_EXPERTS} are supported"
    )


def refuse_routing(x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor) -> None:
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


def fits_spread(x_TD: Tensor, spread: ExpertSpread, residual: Residual | None) -> bool:
    """Some of the experts, each of them whole."""
    return (
        fits(x_TD, spread.w13_EFD, spread.w2_EID)
        and joins(x_TD, residual)
        and len(spread.w2_EID) <= spread.num_experts <= MAX_EXPERTS
    )


def refuse_spread(x_TD: Tensor, spread: ExpertSpread, residual: Residual | None) -> None:
    refuse_matrices(x_TD, spread.w13_EFD, spread.w2_EID)
    own = len(spread.w2_EID)
    require(
        own <= spread.num_experts <= MAX_EXPERTS,
        f"w2 has {own} experts of {spread.num_experts} in all; allowed are {own} to {MAX_EXPERTS}",
    )
    refuse_residual(x_TD, residual)
