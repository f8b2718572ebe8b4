"""Root-mean-square norm with its gradient by hand. Legend: T tokens, D width."""

import torch
from torch import Tensor

from forklight_kernels.packing import accumulation_dtype


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    result: Tensor = _RmsNorm.apply(x_TD, weight_D, eps)
    return result


def inverse_rms(x_TD: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x^2) + eps) per token, [T, 1]."""
    norm_T1 = torch.linalg.vector_norm(x_TD, dim=-1, keepdim=True)
    return norm_T1.square_().div_(x_TD.shape[-1]).add_(eps).rsqrt_()


def norm_gradient(dy_TD: Tensor, unit_TD: Tensor, scale_T1: Tensor) -> Tensor:
    """Gradient of x -> x * scale(x) given the normed x: scale * (dy - unit * mean(dy * unit))."""
    dot_T1 = torch.linalg.vecdot(dy_TD, unit_TD).div_(-unit_TD.shape[-1]).unsqueeze(-1)
    return torch.addcmul(dy_TD, unit_TD, dot_T1).mul_(scale_T1)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x_TD: Tensor, weight_D: Tensor, eps: float
    ) -> Tensor:
        wide_TD = x_TD.to(accumulation_dtype(x_TD))
        scale_T1 = inverse_rms(wide_TD, eps)
        unit_TD = wide_TD * scale_T1
        ctx.save_for_backward(unit_TD, scale_T1, weight_D)
        ctx.dtype = x_TD.dtype  # type: ignore[attr-defined]
        return unit_TD.to(x_TD.dtype) * weight_D

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        unit_TD, scale_T1, weight_D = ctx.saved_tensors  # type: ignore[attr-defined]
        dy_TD = gradients[0].to(unit_TD.dtype)
        dweight_D = torch.linalg.vecdot(dy_TD, unit_TD, dim=0).to(weight_D.dtype)
        dx_TD = norm_gradient(dy_TD * weight_D, unit_TD, scale_T1)
        return dx_TD.to(ctx.dtype), dweight_D, None  # type: ignore[attr-defined]
