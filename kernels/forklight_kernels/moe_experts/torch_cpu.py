"""SwiGLU experts: rows sorted by expert for training and long inputs, all experts at once for a few tokens.

Legend: T tokens, K slots a token, R = T * K rows sorted by expert, E experts, D width, I expert width, F = 2 I.
Deterministic: every token's slots are added in slot order by one writer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, silu

DENSE_MAX_WORK = 1 << 15
"""Tokens times unchosen experts' width below which one dense pass beats sorting (see README)."""


def moe_experts(
    x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, w13_EFD: Tensor, w2_EDI: Tensor
) -> Tensor:
    if not torch.is_grad_enabled() and _is_small(x_TD, experts_TK, w2_EDI):
        return _dense_experts(x_TD, weights_TK, experts_TK, w13_EFD, w2_EDI)
    result: Tensor = _SortedExperts.apply(x_TD, weights_TK, experts_TK, w13_EFD, w2_EDI)
    return result


def _is_small(x_TD: Tensor, experts_TK: Tensor, w2_EDI: Tensor) -> bool:
    num_experts, _, expert_width = w2_EDI.shape
    return len(x_TD) * (num_experts - experts_TK.shape[1]) * expert_width <= DENSE_MAX_WORK


def _dense_experts(
    x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, w13_EFD: Tensor, w2_EDI: Tensor
) -> Tensor:
    num_experts, num_rows, width = w13_EFD.shape
    both_TEF = torch.mm(x_TD, w13_EFD.view(-1, width).t()).view(-1, num_experts, num_rows)
    gate_TEI, up_TEI = both_TEF.chunk(2, dim=-1)
    weights_TE = x_TD.new_zeros(len(x_TD), num_experts).scatter_(1, experts_TK, weights_TK.to(x_TD.dtype))
    hidden_TEI = silu(gate_TEI).mul_(up_TEI).mul_(weights_TE[:, :, None])
    out_TD = torch.mm(hidden_TEI[:, 0], w2_EDI[0].t())
    for expert in range(1, num_experts):
        out_TD.addmm_(hidden_TEI[:, expert], w2_EDI[expert].t())
    return out_TD


@dataclass(frozen=True, slots=True, kw_only=True)
class _RowOrder:
    """The rows (token, slot) sorted by expert, stably, and the way back."""

    token_R: Tensor
    place_TK: Tensor
    """Sorted place of each (token, slot)."""
    row_slices: tuple[slice, ...]
    """Each expert's rows."""


class _SortedExperts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x_TD: Tensor,
        weights_TK: Tensor,
        experts_TK: Tensor,
        w13_EFD: Tensor,
        w2_EDI: Tensor,
    ) -> Tensor:
        order = _sort_rows(experts_TK, len(w2_EDI))
        x_RD = x_TD.index_select(0, order.token_R)
        both_RF = x_RD.new_empty(len(x_RD), w13_EFD.shape[1])
        _per_expert_mm(x_RD, w13_EFD.transpose(1, 2), order, both_RF)
        gate_RI, up_RI = both_RF.chunk(2, dim=-1)
        active_RI = silu(gate_RI)
        y_RD = torch.empty_like(x_RD)
        _per_expert_mm(active_RI * up_RI, w2_EDI.transpose(1, 2), order, y_RD)
        ctx.save_for_backward(x_RD, both_RF, active_RI, weights_TK, w13_EFD, w2_EDI)
        ctx.order = order  # type: ignore[attr-defined]
        return embedding_bag(order.place_TK, y_RD, per_sample_weights=weights_TK.to(x_TD.dtype), mode="sum")

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_RD, both_RF, active_RI, weights_TK, w13_EFD, w2_EDI = ctx.saved_tensors  # type: ignore[attr-defined]
        order: _RowOrder = ctx.order  # type: ignore[attr-defined]
        gate_RI, up_RI = both_RF.chunk(2, dim=-1)
        dout_RD = gradients[0].index_select(0, order.token_R)
        hidden_RI = active_RI * up_RI
        dweighted_RI = torch.empty_like(hidden_RI)
        _per_expert_mm(dout_RD, w2_EDI, order, dweighted_RI)
        dweights_TK = torch.linalg.vecdot(dweighted_RI, hidden_RI)[order.place_TK].to(weights_TK.dtype)
        weights_R1 = torch.empty_like(dout_RD[:, :1])
        weights_R1[order.place_TK.view(-1)] = weights_TK.reshape(-1, 1).to(dout_RD.dtype)
        dw2_EDI = _per_expert_weight_gradient(dout_RD, hidden_RI.mul_(weights_R1), order, w2_EDI)
        dhidden_RI = dweighted_RI.mul_(weights_R1)
        dboth_RF = torch.empty_like(both_RF)
        torch.mul(dhidden_RI, active_RI, out=dboth_RF[:, dhidden_RI.shape[1] :])
        dboth_RF[:, : dhidden_RI.shape[1]] = torch.ops.aten.silu_backward(dhidden_RI.mul_(up_RI), gate_RI)
        dw13_EFD = _per_expert_weight_gradient(dboth_RF, x_RD, order, w13_EFD)
        dx_RD = torch.empty_like(x_RD)
        _per_expert_mm(dboth_RF, w13_EFD, order, dx_RD)
        return embedding_bag(order.place_TK, dx_RD, mode="sum"), dweights_TK, None, dw13_EFD, dw2_EDI


def _sort_rows(experts_TK: Tensor, num_experts: int) -> _RowOrder:
    num_tokens, top_k = experts_TK.shape
    expert_R = experts_TK.reshape(-1)
    order_R = torch.argsort(expert_R, stable=True)
    place_R = torch.empty_like(order_R)
    place_R[order_R] = torch.arange(len(order_R), device=order_R.device)
    ends = torch.bincount(expert_R, minlength=num_experts).cumsum(0).tolist()
    starts = [0, *ends[:-1]]
    return _RowOrder(
        token_R=order_R.div(top_k, rounding_mode="floor"),
        place_TK=place_R.view(num_tokens, top_k),
        row_slices=tuple(slice(start, end) for start, end in zip(starts, ends, strict=True)),
    )


def _per_expert_mm(rows_RA: Tensor, matrices_EAB: Tensor, order: _RowOrder, out_RB: Tensor) -> None:
    for rows, matrix_AB in zip(order.row_slices, matrices_EAB.unbind(), strict=True):
        if rows.stop > rows.start:
            torch.mm(rows_RA[rows], matrix_AB, out=out_RB[rows])


def _per_expert_weight_gradient(
    dout_RA: Tensor, input_RB: Tensor, order: _RowOrder, like_EAB: Tensor
) -> Tensor:
    gradient_EAB = torch.empty_like(like_EAB)
    for rows, gradient_AB in zip(order.row_slices, gradient_EAB.unbind(), strict=True):
        torch.mm(dout_RA[rows].t(), input_RB[rows], out=gradient_AB)
    return gradient_EAB
