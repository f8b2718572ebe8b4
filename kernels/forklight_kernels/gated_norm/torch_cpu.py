"""RMSNorm times a sigmoid gate with its gradient by hand. Legend: T tokens, D width."""

import torch
from torch import Tensor

from forklight_kernels.packing import accumulation_dtype
from forklight_kernels.rms_norm.torch_cpu import inverse_rms, norm_gradient


def gated_norm(x_TD: Tensor, gate_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    result: Tensor = _GatedNorm.apply(x_TD, gate_TD, weight_D, eps)
    return result


class _GatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x_TD: Tensor, gate_TD: Tensor, weight_D: Tensor, eps: float
    ) -> Tensor:
        wide_TD = x_TD.to(accumulation_dtype(x_TD))
        scale_T1 = inverse_rms(wide_TD, eps)
        unit_TD = wide_TD * scale_T1
        open_TD = torch.sigmoid(gate_TD)
        ctx.save_for_backward(unit_TD, scale_T1, open_TD, weight_D)
        ctx.dtype = x_TD.dtype  # type: ignore[attr-defined]
        return (unit_TD.to(x_TD.dtype) * weight_D).mul_(open_TD)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        unit_TD, scale_T1, open_TD, weight_D = ctx.saved_tensors  # type: ignore[attr-defined]
        dtype = ctx.dtype  # type: ignore[attr-defined]
        gated_TD = gradients[0].to(unit_TD.dtype) * open_TD
        product_TD = gated_TD * unit_TD
        dweight_D = product_TD.sum(dim=0).to(weight_D.dtype)
        dgate_TD = product_TD.mul_(weight_D).mul_(1 - open_TD)
        dx_TD = norm_gradient(gated_TD.mul_(weight_D), unit_TD, scale_T1)
        return dx_TD.to(dtype), dgate_TD.to(dtype), dweight_D, None
