"""Experts of several processes on a GPU: rows travel to their expert's process and back, between the kernels.

Every stored number is the one that `triton_gpu` stores with all experts here, and so is its gradient: rows
travel unweighted both ways, the weights beside the gradients.
Legend: T tokens, K slots, R = T * K own rows, S rows for own experts, P places, E own experts, D width,
I expert width, F = 2 I.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from forklight_kernels.gradient import Context, needs_gradient
from forklight_kernels.moe_experts.source_order import SourceOrder, order_by_expert
from forklight_kernels.moe_experts.triton_gpu import (
    ExpertTiles,
    choose_tiles,
    refuse_odd_widths,
    wanted_rows,
)
from forklight_kernels.moe_experts.triton_gradient import RowsPull, RowsSaved, rows_gradient
from forklight_kernels.moe_experts.triton_plan import ExpertPlan, plan_experts
from forklight_kernels.moe_experts.triton_products import gate_and_up, rows_by_experts
from forklight_kernels.moe_experts.triton_rows import combine, gather_rows
from forklight_kernels.moe_experts.types import ExpertSpread, RowTrip
from forklight_kernels.recompute import Result, is_repeating, kept
from forklight_kernels.residual import Residual


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Route:
    """How this pass's rows travel, and what happens to them there."""

    experts_TK: Tensor
    order: SourceOrder
    trip: RowTrip
    num_experts: int
    tiles: ExpertTiles
    plan: ExpertPlan | None
    """Of the rows that arrive; None where none does."""
    alpha: float
    beta: float


def moe_experts_spread(
    x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, spread: ExpertSpread, residual: Residual | None
) -> Tensor:
    own, inner, width = spread.w2_EID.shape
    refuse_odd_widths(x_TD, inner, inner, width)
    residual_TD = None if residual is None else residual.x_TD
    keeps = needs_gradient(x_TD, weights_TK, spread.w13_EFD, spread.w2_EID, residual_TD)
    order = order_by_expert(experts_TK, spread.num_experts)
    trip = spread.start_trip(order.counts_E)
    num_rows = len(trip.experts_S)
    tiles = choose_tiles(num_rows, own, inner, x_TD.dtype, keeps)
    route = _Route(
        experts_TK=experts_TK,
        order=order,
        trip=trip,
        num_experts=spread.num_experts,
        tiles=tiles,
        plan=plan_experts(trip.experts_S[:, None], own, tiles.up.rows) if num_rows else None,
        alpha=1.0 if residual is None else float(residual.alpha),
        beta=1.0 if residual is None else float(residual.beta),
    )
    matrices = (spread.w13_EFD, spread.w2_EID)
    if keeps:
        mixed_TD: Tensor = _Spread.apply(x_TD, weights_TK, *matrices, residual_TD, route)
        return mixed_TD
    y_SD = _through_experts(_departed(x_TD, route), matrices, route, None)
    return _combined(y_SD, weights_TK, residual_TD, route)


def _departed(rows_TW: Tensor, route: _Route) -> Tensor:
    """A row of every slot of these tokens, where its expert is."""
    return route.trip.to_owners(rows_TW.index_select(0, route.order.token_R))


def _through_experts(
    x_SD: Tensor, matrices: tuple[Tensor, Tensor], route: _Route, both_P2I: Tensor | None
) -> Tensor:
    """The rows that arrived, each through its expert, in the order of arrival."""
    (w13_EFD, w2_EID), plan, tiles = matrices, route.plan, route.tiles
    if plan is None:
        return torch.empty_like(x_SD)
    rows = gather_rows(x_SD, plan) if tiles.gathers_first else x_SD
    hidden_PI = gate_and_up(rows, w13_EFD, plan, tiles.up, both_P2I, gathers=not tiles.gathers_first)
    del rows
    return _as_arrived(rows_by_experts(hidden_PI, w2_EID, plan, tiles.down), route, plan)


def _as_arrived(rows_PD: Tensor, route: _Route, plan: ExpertPlan) -> Tensor:
    """From places to the order of arrival: one row a slot, weighed by one."""
    experts_S1 = route.trip.experts_S[:, None]
    return combine(rows_PD, plan.place_R, experts_S1, None, route.num_experts, None)


def _combined(y_SD: Tensor, weights_TK: Tensor, residual_TD: Tensor | None, route: _Route) -> Tensor:
    """Each token's slots in order, and the residual, once the rows are back."""
    y_RD = route.trip.to_sources(y_SD)
    residual = None
    if residual_TD is not None:
        residual = Residual(x_TD=residual_TD, alpha=route.alpha, beta=route.beta)
    return _sum_slots(y_RD, weights_TK, residual, route)


def _sum_slots(
    rows_RD: Tensor, weights_TK: Tensor | None, residual: Residual | None, route: _Route
) -> Tensor:
    if len(route.experts_TK) == 0:
        return rows_RD
    place_R = route.order.place_TK.view(-1)
    return combine(rows_RD, place_R, route.experts_TK, weights_TK, route.num_experts, residual)


def _gate_and_up(x_SD: Tensor, w13_EFD: Tensor, route: _Route) -> Tensor:
    """What the backward pass needs of a forward pass besides the rows."""
    both_P2I, plan, tiles = _new_both(x_SD, w13_EFD, route), route.plan, route.tiles
    if plan is not None:
        rows = gather_rows(x_SD, plan) if tiles.gathers_first else x_SD
        gate_and_up(rows, w13_EFD, plan, tiles.up, both_P2I, gathers=not tiles.gathers_first)
    return both_P2I


def _new_both(x_SD: Tensor, w13_EFD: Tensor, route: _Route) -> Tensor:
    num_places = 0 if route.plan is None else route.plan.num_places
    return x_SD.new_empty(num_places, 2, w13_EFD.shape[1] // 2)


class _Context(Context):
    needs_input_grad: tuple[bool, ...]
    route: _Route


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        x_TD: Tensor,
        weights_TK: Tensor,
        w13_EFD: Tensor,
        w2_EID: Tensor,
        residual_TD: Tensor | None,
        route: _Route,
    ) -> Tensor:
        x_SD = _departed(x_TD, route)
        if is_repeating():
            # Nobody reads a repeated block's output, and these experts are its last op: no way back.
            (both_P2I,) = kept(Result.EXPERTS, lambda: (_gate_and_up(x_SD, w13_EFD, route),))
            out_TD = torch.empty_like(x_TD)
        else:
            both_P2I = _new_both(x_SD, w13_EFD, route)
            y_SD = _through_experts(x_SD, (w13_EFD, w2_EID), route, both_P2I)
            out_TD = _combined(y_SD, weights_TK, residual_TD, route)
            kept(Result.EXPERTS, lambda: (both_P2I,))
        ctx.save_for_backward(x_SD, weights_TK, w13_EFD, w2_EID, both_P2I)
        ctx.route = route
        return out_TD

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_SD, weights_TK, w13_EFD, w2_EID, both_P2I = ctx.saved_tensors
        route, needs = ctx.route, ctx.needs_input_grad
        dout_TD = gradients[0].contiguous()
        dout_SD = _departed(dout_TD, route)
        weights_S1 = route.trip.to_owners(weights_TK.reshape(-1, 1).index_select(0, route.order.row_R))
        if route.plan is None:
            pull = _no_rows_gradient(x_SD, weights_S1, (w13_EFD, w2_EID), needs)
        else:
            saved = RowsSaved(
                x_TD=x_SD,
                weights_TK=weights_S1,
                w13_EFD=w13_EFD,
                w2_EID=w2_EID,
                both_P2I=both_P2I,
                plan=route.plan,
            )
            pull = rows_gradient(dout_SD, saved, wanted_rows(needs, route.tiles, route.beta, x_SD.dtype))
        del dout_SD
        dweights_R1 = route.trip.to_sources(pull.dweights_TK)
        dweights_TK = dweights_R1.index_select(0, route.order.place_TK.view(-1)).view(weights_TK.shape)
        dx_TD = None
        if pull.dx_PD is not None:
            dx_SD = pull.dx_PD if route.plan is None else _as_arrived(pull.dx_PD, route, route.plan)
            dx_TD = _sum_slots(route.trip.to_sources(dx_SD), None, None, route)
        dresidual_TD = dout_TD * route.alpha if needs[4] else None
        return dx_TD, dweights_TK.to(weights_TK.dtype), pull.dw13_EFD, pull.dw2_EID, dresidual_TD, None


def _no_rows_gradient(
    x_SD: Tensor, weights_S1: Tensor, matrices: tuple[Tensor, Tensor], needs: tuple[bool, ...]
) -> RowsPull:
    w13_EFD, w2_EID = matrices
    return RowsPull(
        dx_PD=torch.empty_like(x_SD) if needs[0] else None,
        dweights_TK=weights_S1.float(),
        dw13_EFD=torch.zeros_like(w13_EFD) if needs[2] else None,
        dw2_EID=torch.zeros_like(w2_EID) if needs[3] else None,
    )
