"""Experts of several processes on a CPU: rows travel to their expert's process and back.

Rows of an expert lie there as they would in one process that had all tokens, source after source. So its
products, the gradients of its matrices among them, are that process's.
Legend: T tokens, K slots, R = T * K own rows, S rows for own experts, D width, E own experts, F = 2 I.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from forklight_kernels.checks import require
from forklight_kernels.gradient import Context, needs_gradient
from forklight_kernels.moe_experts.source_order import SourceOrder, order_by_expert
from forklight_kernels.moe_experts.torch_cpu import (
    Activations,
    RowOrder,
    RowPull,
    joined,
    row_gradients,
    rows_through_experts,
    sort_rows,
    sum_slots,
)
from forklight_kernels.moe_experts.types import ExpertSpread, RowTrip
from forklight_kernels.residual import Residual


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Route:
    """How this pass's rows travel."""

    order: SourceOrder
    trip: RowTrip
    arrived: RowOrder
    """The rows that arrive, sorted by own expert."""


def moe_experts_spread(
    x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, spread: ExpertSpread, residual: Residual | None
) -> Tensor:
    is_known = (experts_TK >= 0) & (experts_TK < spread.num_experts)
    require(bool(is_known.all()), f"experts names an expert outside 0 to {spread.num_experts - 1}")
    order = order_by_expert(experts_TK, spread.num_experts)
    trip = spread.start_trip(order.counts_E)
    route = _Route(order=order, trip=trip, arrived=sort_rows(trip.experts_S[:, None], len(spread.w2_EID)))
    if needs_gradient(x_TD, weights_TK, spread.w13_EFD, spread.w2_EID):
        mixed_TD: Tensor = _SpreadExperts.apply(x_TD, weights_TK, spread.w13_EFD, spread.w2_EID, route)
    else:
        mixed_TD = _mix(x_TD, weights_TK, spread.w13_EFD, spread.w2_EID, route)[0]
    return joined(mixed_TD, residual)


def _mix(
    x_TD: Tensor, weights_TK: Tensor, w13_EFD: Tensor, w2_EID: Tensor, route: _Route
) -> tuple[Tensor, Activations]:
    x_SD = route.trip.to_owners(x_TD.index_select(0, route.order.token_R))
    y_SD, kept = rows_through_experts(
        x_SD.index_select(0, route.arrived.token_R), route.arrived, w13_EFD, w2_EID
    )
    y_RD = route.trip.to_sources(_as_arrived(y_SD, route))
    return sum_slots(y_RD, route.order.place_TK, weights_TK), kept


def _as_arrived(rows_SW: Tensor, route: _Route) -> Tensor:
    return rows_SW.index_select(0, route.arrived.place_TK.view(-1))


class _Context(Context):
    route: _Route


class _SpreadExperts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context, x_TD: Tensor, weights_TK: Tensor, w13_EFD: Tensor, w2_EID: Tensor, route: _Route
    ) -> Tensor:
        out_TD, kept = _mix(x_TD, weights_TK, w13_EFD, w2_EID, route)
        ctx.save_for_backward(kept.x_RD, kept.both_RF, kept.active_RI, weights_TK, w13_EFD, w2_EID)
        ctx.route = route
        return out_TD

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_SD, both_SF, active_SI, weights_TK, w13_EFD, w2_EID = ctx.saved_tensors
        route, order = ctx.route, ctx.route.order
        dout_RD = gradients[0].index_select(0, order.token_R)
        weights_R1 = weights_TK.reshape(-1, 1).index_select(0, order.row_R).to(dout_RD.dtype)
        sorted_S = route.arrived.token_R
        pull = RowPull(
            dout_RD=route.trip.to_owners(dout_RD).index_select(0, sorted_S),
            weights_R1=route.trip.to_owners(weights_R1).index_select(0, sorted_S),
        )
        kept = Activations(x_RD=x_SD, both_RF=both_SF, active_RI=active_SI)
        given = row_gradients(pull, kept, route.arrived, w13_EFD, w2_EID)
        dx_RD = route.trip.to_sources(_as_arrived(given.dx_RD, route))
        dweights_R1 = route.trip.to_sources(_as_arrived(given.dweights_R[:, None], route))
        dweights_TK = dweights_R1[:, 0][order.place_TK].to(weights_TK.dtype)
        dx_TD = sum_slots(dx_RD, order.place_TK, None)
        return dx_TD, dweights_TK, given.dw13_EFD, given.dw2_EID, None
