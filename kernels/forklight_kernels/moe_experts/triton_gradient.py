"""The backward pass of rows through their experts: gather again, three kinds of products, the activation.

Legend: T tokens, K slots a token, P places, E experts, D width, I expert width, F = 2 I.
"""

from dataclasses import dataclass

from torch import Tensor

from forklight_kernels.moe_experts.triton_plan import ExpertPlan
from forklight_kernels.moe_experts.triton_products import matrix_gradient, rows_by_experts
from forklight_kernels.moe_experts.triton_rows import activation_gradient, gather_rows
from forklight_kernels.triton_tiles import Tile


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowsSaved:
    """What the forward pass leaves."""

    x_TD: Tensor
    weights_TK: Tensor
    w13_EFD: Tensor
    w2_EID: Tensor
    both_P2I: Tensor
    """Gate and up."""
    plan: ExpertPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsWanted:
    """Which gradients are due, how they are made."""

    needs_x: bool
    needs_w13: bool
    needs_w2: bool
    beta: float
    rows_tile: Tile
    gradient_tile: Tile


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowsPull:
    """The gradients; what is not wanted is None."""

    dx_PD: Tensor | None
    dweights_TK: Tensor
    """fp32."""
    dw13_EFD: Tensor | None
    dw2_EID: Tensor | None


def rows_gradient(dout_TD: Tensor, saved: RowsSaved, wanted: RowsWanted) -> RowsPull:
    """From the gradient of the output before weights and beta."""
    plan = saved.plan
    dboth_P2I, dweights_TK, dw2_EID = _down_gradients(dout_TD, saved, wanted)
    dboth_PF = dboth_P2I.view(len(dboth_P2I), -1)
    dw13_EFD, dx_PD = None, None
    if wanted.needs_w13:
        dw13_EFD = matrix_gradient(dboth_PF, gather_rows(saved.x_TD, plan), plan, wanted.gradient_tile)
    if wanted.needs_x:
        dx_PD = rows_by_experts(dboth_PF, saved.w13_EFD, plan, wanted.rows_tile)
    return RowsPull(dx_PD=dx_PD, dweights_TK=dweights_TK, dw13_EFD=dw13_EFD, dw2_EID=dw2_EID)


def _down_gradients(
    dout_TD: Tensor, saved: RowsSaved, wanted: RowsWanted
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of gate and up, of the weights, and of w2."""
    plan = saved.plan
    dout_PD = gather_rows(dout_TD, plan)
    dhidden_PI = rows_by_experts(dout_PD, saved.w2_EID, plan, wanted.rows_tile, is_transposed=True)
    dboth_P2I, dweights_TK = activation_gradient(
        saved.both_P2I, dhidden_PI, saved.weights_TK, wanted.beta, plan
    )
    if not wanted.needs_w2:
        return dboth_P2I, dweights_TK, None
    # dhidden now holds weight * beta * hidden: the activation's gradient replaced it.
    return dboth_P2I, dweights_TK, matrix_gradient(dhidden_PI, dout_PD, plan, wanted.gradient_tile)
