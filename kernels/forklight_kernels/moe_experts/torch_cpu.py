"""SwiGLU experts: rows sorted by expert for training and long inputs, all experts at once for a few tokens.

Legend: T tokens, K slots a token, R = T * K rows sorted by expert, E experts, D width, I expert width,
F = 2 * I.
Deterministic: every token's slots are added in slot order by one writer.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, silu

from forklight_kernels.gradient import Context, needs_gradient
from forklight_kernels.moe_experts.types import ExpertPart
from forklight_kernels.residual import Residual

GatherColumns = Callable[[Tensor], Tensor]

DENSE_MAX_WORK = 1 << 15
"""Tokens times the width of experts they did not choose, up to which computing those beats sorting."""


def moe_experts(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    w13_EFD: Tensor,
    w2_EID: Tensor,
    residual: Residual | None,
) -> Tensor:
    if needs_gradient(x_TD, weights_TK, w13_EFD, w2_EID):
        mixed_TD: Tensor = _SortedExperts.apply(x_TD, weights_TK, experts_TK.long(), w13_EFD, w2_EID)
    else:
        mixed_TD = _mix(x_TD, weights_TK, experts_TK.long(), w13_EFD, w2_EID)
    return joined(mixed_TD, residual)


def moe_experts_part(
    x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, part: ExpertPart, residual: Residual | None
) -> Tensor:
    matrices = (part.w13_EFD, part.w2_EID)
    return joined(_mix(x_TD, weights_TK, experts_TK.long(), *matrices, part.gather_columns), residual)


def joined(mixed_TD: Tensor, residual: Residual | None) -> Tensor:
    """The mixture with the residual it ends in."""
    if residual is None:
        return mixed_TD
    if residual.beta != 1:
        mixed_TD = mixed_TD * residual.beta
    return torch.add(mixed_TD, residual.x_TD, alpha=residual.alpha)


def _mix(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    w13_EFD: Tensor,
    w2_EID: Tensor,
    gather: GatherColumns | None = None,
) -> Tensor:
    num_experts, expert_width, _ = w2_EID.shape
    if len(x_TD) * (num_experts - experts_TK.shape[1]) * expert_width <= DENSE_MAX_WORK:
        return _dense_experts(x_TD, weights_TK, experts_TK, w13_EFD, w2_EID, gather)
    return _sorted_experts(x_TD, weights_TK, sort_rows(experts_TK, num_experts), w13_EFD, w2_EID, gather)[0]


def _dense_experts(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    w13_EFD: Tensor,
    w2_EID: Tensor,
    gather: GatherColumns | None,
) -> Tensor:
    """Every expert on every token, as two matrix products; unchosen ones get weight 0."""
    num_experts, double_width, width = w13_EFD.shape
    both_TE2I = torch.mm(x_TD, w13_EFD.view(-1, width).t()).view(-1, num_experts, 2, double_width // 2)
    weights_TE = x_TD.new_zeros(len(x_TD), num_experts).scatter_(1, experts_TK, weights_TK.to(x_TD.dtype))
    hidden_TEI = silu(both_TE2I[:, :, 0]).mul_(both_TE2I[:, :, 1]).mul_(weights_TE[:, :, None])
    if gather is not None:
        hidden_TEI = gather(hidden_TEI.flatten(0, 1)).view(len(x_TD), num_experts, w2_EID.shape[1])
    return torch.mm(hidden_TEI.flatten(1), w2_EID.view(-1, w2_EID.shape[2]))


@dataclass(frozen=True, slots=True, kw_only=True)
class RowOrder:
    """The rows (token, slot) sorted by expert, stably, and the way back."""

    token_R: Tensor
    place_TK: Tensor
    """Sorted place of each (token, slot)."""
    rows_by_expert: tuple[tuple[int, slice], ...]
    """Each chosen expert with its rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activations:
    """What the backward pass needs of the forward pass."""

    x_RD: Tensor
    both_RF: Tensor
    active_RI: Tensor


def sort_rows(experts_TK: Tensor, num_experts: int) -> RowOrder:
    num_tokens, top_k = experts_TK.shape
    expert_R = experts_TK.reshape(-1)
    order_R = torch.argsort(expert_R, stable=True)
    place_R = torch.empty_like(order_R)
    place_R[order_R] = torch.arange(len(order_R), device=order_R.device)
    ends = torch.bincount(expert_R, minlength=num_experts).cumsum(0).tolist()
    slices = (slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True))
    return RowOrder(
        token_R=order_R.div(top_k, rounding_mode="floor"),
        place_TK=place_R.view(num_tokens, top_k),
        rows_by_expert=tuple((expert, rows) for expert, rows in enumerate(slices) if rows.stop > rows.start),
    )


def rows_through_experts(
    x_RD: Tensor, order: RowOrder, w13_EFD: Tensor, w2_EID: Tensor, gather: GatherColumns | None = None
) -> tuple[Tensor, Activations]:
    """Each sorted row through its expert."""
    both_RF = _per_expert_mm(x_RD, w13_EFD.transpose(1, 2), order)
    gate_RI, up_RI = both_RF.chunk(2, dim=-1)
    active_RI = silu(gate_RI)
    hidden_RI = active_RI * up_RI
    if gather is not None:
        hidden_RI = gather(hidden_RI)
    y_RD = _per_expert_mm(hidden_RI, w2_EID, order)
    return y_RD, Activations(x_RD=x_RD, both_RF=both_RF, active_RI=active_RI)


def sum_slots(y_RD: Tensor, place_TK: Tensor, weights_TK: Tensor | None) -> Tensor:
    """Each token's rows, with their weights where given, added in slot order."""
    if weights_TK is not None:
        weights_TK = weights_TK.to(y_RD.dtype)
    return embedding_bag(place_TK, y_RD, per_sample_weights=weights_TK, mode="sum")


def _sorted_experts(
    x_TD: Tensor,
    weights_TK: Tensor,
    order: RowOrder,
    w13_EFD: Tensor,
    w2_EID: Tensor,
    gather: GatherColumns | None = None,
) -> tuple[Tensor, Activations]:
    y_RD, kept = rows_through_experts(x_TD.index_select(0, order.token_R), order, w13_EFD, w2_EID, gather)
    return sum_slots(y_RD, order.place_TK, weights_TK), kept


class _Context(Context):
    order: RowOrder


class _SortedExperts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        x_TD: Tensor,
        weights_TK: Tensor,
        experts_TK: Tensor,
        w13_EFD: Tensor,
        w2_EID: Tensor,
    ) -> Tensor:
        order = sort_rows(experts_TK, len(w2_EID))
        out_TD, kept = _sorted_experts(x_TD, weights_TK, order, w13_EFD, w2_EID)
        ctx.save_for_backward(kept.x_RD, kept.both_RF, kept.active_RI, weights_TK, w13_EFD, w2_EID)
        ctx.order = order
        return out_TD

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_RD, both_RF, active_RI, weights_TK, w13_EFD, w2_EID = ctx.saved_tensors
        order = ctx.order
        dout_RD = gradients[0].index_select(0, order.token_R)
        pull = RowPull(dout_RD=dout_RD, weights_R1=_weights_by_row(weights_TK, order.place_TK, dout_RD.dtype))
        kept = Activations(x_RD=x_RD, both_RF=both_RF, active_RI=active_RI)
        given = row_gradients(pull, kept, order, w13_EFD, w2_EID)
        dweights_TK = given.dweights_R[order.place_TK].to(weights_TK.dtype)
        dx_TD = sum_slots(given.dx_RD, order.place_TK, None)
        return dx_TD, dweights_TK, None, given.dw13_EFD, given.dw2_EID


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPull:
    """The gradient of each sorted row's part in the output, and the part's weight."""

    dout_RD: Tensor
    weights_R1: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGradients:
    """What sorted rows give back."""

    dx_RD: Tensor
    dweights_R: Tensor
    dw13_EFD: Tensor
    dw2_EID: Tensor


def row_gradients(
    pull: RowPull, kept: Activations, order: RowOrder, w13_EFD: Tensor, w2_EID: Tensor
) -> RowGradients:
    both_RF, active_RI = kept.both_RF, kept.active_RI
    gate_RI, up_RI = both_RF.chunk(2, dim=-1)
    hidden_RI = active_RI * up_RI
    dhidden_RI = _per_expert_mm(pull.dout_RD, w2_EID.transpose(1, 2), order)
    # <dout, y> = <dout w2^T, hidden>: the weight's gradient needs no stored y.
    dweights_R = (dhidden_RI * hidden_RI).sum(dim=-1)
    weighted_RI = hidden_RI.mul_(pull.weights_R1)
    dw2_EID = _per_expert_weight_gradient(weighted_RI, pull.dout_RD, order, w2_EID)
    dhidden_RI.mul_(pull.weights_R1)
    dboth_RF = torch.empty_like(both_RF)
    dgate_RI, dup_RI = dboth_RF.chunk(2, dim=-1)
    torch.mul(dhidden_RI, active_RI, out=dup_RI)
    torch.ops.aten.silu_backward.grad_input(dhidden_RI.mul_(up_RI), gate_RI, grad_input=dgate_RI)
    return RowGradients(
        dx_RD=_per_expert_mm(dboth_RF, w13_EFD, order),
        dweights_R=dweights_R,
        dw13_EFD=_per_expert_weight_gradient(dboth_RF, kept.x_RD, order, w13_EFD),
        dw2_EID=dw2_EID,
    )


def _weights_by_row(weights_TK: Tensor, place_TK: Tensor, dtype: torch.dtype) -> Tensor:
    weights_R1 = weights_TK.new_empty(weights_TK.numel(), 1)
    weights_R1[place_TK.view(-1)] = weights_TK.reshape(-1, 1)
    return weights_R1.to(dtype)


def _per_expert_mm(rows_RA: Tensor, matrices_EAB: Tensor, order: RowOrder) -> Tensor:
    out_RB = rows_RA.new_empty(len(rows_RA), matrices_EAB.shape[2])
    for expert, rows in order.rows_by_expert:
        torch.mm(rows_RA[rows], matrices_EAB[expert], out=out_RB[rows])
    return out_RB


def _per_expert_weight_gradient(
    left_RA: Tensor, right_RB: Tensor, order: RowOrder, like_EAB: Tensor
) -> Tensor:
    is_complete = len(order.rows_by_expert) == len(like_EAB)
    gradient_EAB = torch.empty_like(like_EAB) if is_complete else torch.zeros_like(like_EAB)
    for expert, rows in order.rows_by_expert:
        torch.mm(left_RA[rows].t(), right_RB[rows], out=gradient_EAB[expert])
    return gradient_EAB
