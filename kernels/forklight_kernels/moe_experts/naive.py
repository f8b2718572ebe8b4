"""SwiGLU experts, one by one. Legend: T tokens, K slots, E experts, D width, I expert width, F = 2 I."""

import torch
from torch import Tensor

from forklight_kernels.residual import Residual


def moe_experts(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    w13_EFD: Tensor,
    w2_EID: Tensor,
    residual: Residual | None,
) -> Tensor:
    out_TD = torch.zeros_like(x_TD)
    for slot in range(experts_TK.shape[1]):
        for expert, (w13_FD, w2_ID) in enumerate(zip(w13_EFD.unbind(), w2_EID.unbind(), strict=True)):
            gate_TI, up_TI = (x_TD @ w13_FD.T).chunk(2, dim=-1)
            y_TD = (torch.nn.functional.silu(gate_TI) * up_TI) @ w2_ID
            is_chosen_T1 = (experts_TK[:, slot] == expert)[:, None]
            out_TD = out_TD + is_chosen_T1 * weights_TK[:, slot, None].to(x_TD.dtype) * y_TD
    if residual is not None:
        out_TD = residual.alpha * residual.x_TD + residual.beta * out_TD
    return out_TD
