"""SwiGLU experts, one by one. Legend: T tokens, K slots, E experts, D width, I expert width, F = 2 I."""

import torch
from torch import Tensor

from forklight_kernels.moe_experts.types import ExpertPart
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
