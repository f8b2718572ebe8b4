"""SwiGLU experts, one by one.

Legend: T tokens, K slots, E experts, D width, I expert width, F = 2 I, R rows (token, slot), S rows arrived.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from forklight_kernels.gradient import Context
from forklight_kernels.moe_experts.source_order import order_by_expert
from forklight_kernels.moe_experts.types import ExpertPart, ExpertSpread
from forklight_kernels.residual import Residual


def moe_experts(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    w13_EFD: Tensor,
    w2_EID: Tensor,
    residual: Residual | None,
) -> Tensor:
    whole = ExpertPart(w13_EFD=w13_EFD, w2_EID=w2_EID, gather_columns=lambda hidden_TI: hidden_TI)
    return moe_experts_part(x_TD, weights_TK, experts_TK, whole, residual)


def moe_experts_part(
    x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, part: ExpertPart, residual: Residual | None
) -> Tensor:
    out_TD = x_TD.new_zeros(len(x_TD), part.w2_EID.shape[2])
    for slot in range(experts_TK.shape[1]):
        matrices = zip(part.w13_EFD.unbind(), part.w2_EID.unbind(), strict=True)
        for expert, (w13_FD, w2_ID) in enumerate(matrices):
            gate_TI, up_TI = (x_TD @ w13_FD.T).chunk(2, dim=-1)
            y_TD = part.gather_columns(torch.nn.functional.silu(gate_TI) * up_TI) @ w2_ID
            is_chosen_T1 = (experts_TK[:, slot] == expert)[:, None]
            out_TD = out_TD + is_chosen_T1 * weights_TK[:, slot, None].to(x_TD.dtype) * y_TD
    if residual is not None:
        out_TD = residual.alpha * residual.x_TD + residual.beta * out_TD
    return out_TD


def moe_experts_spread(
    x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, spread: ExpertSpread, residual: Residual | None
) -> Tensor:
    order = order_by_expert(experts_TK, spread.num_experts)
    trip = spread.start_trip(order.counts_E)
    x_SD: Tensor = _Trip.apply(x_TD[order.token_R], trip.to_owners, trip.to_sources)
    y_SD = x_SD * 0
    for expert, (w13_FD, w2_ID) in enumerate(
        zip(spread.w13_EFD.unbind(), spread.w2_EID.unbind(), strict=True)
    ):
        gate_SI, up_SI = (x_SD @ w13_FD.T).chunk(2, dim=-1)
        is_chosen_S1 = (trip.experts_S == expert)[:, None]
        y_SD = y_SD + is_chosen_S1 * ((torch.nn.functional.silu(gate_SI) * up_SI) @ w2_ID)
    y_RD: Tensor = _Trip.apply(y_SD, trip.to_sources, trip.to_owners)
    slots = zip(weights_TK.unbind(1), order.place_TK.unbind(1), strict=True)
    out_TD = sum(weight_T[:, None].to(x_TD.dtype) * y_RD[place_T] for weight_T, place_T in slots)
    assert isinstance(out_TD, Tensor)  # there is at least one slot
    if residual is not None:
        out_TD = residual.alpha * residual.x_TD + residual.beta * out_TD
    return out_TD


Journey = Callable[[Tensor], Tensor]


class _TripContext(Context):
    back: Journey


class _Trip(torch.autograd.Function):
    """Rows go there; their gradient comes back."""

    @staticmethod
    def forward(ctx: _TripContext, rows: Tensor, there: Journey, back: Journey) -> Tensor:
        ctx.back = back
        return there(rows.contiguous())

    @staticmethod
    def backward(ctx: _TripContext, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.back(gradients[0].contiguous()), None, None
