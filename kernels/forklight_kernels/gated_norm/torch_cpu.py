"""RMSNorm times a sigmoid gate in few passes, with its gradient by hand. Legend: T tokens, D width."""

import torch
from torch import Tensor

from forklight_kernels.gradient import Context, needs_gradient
from forklight_kernels.packing import accumulation_dtype
from forklight_kernels.rms_norm.torch_cpu import inverse_rms, norm_gradient


def gated_norm(x_TD: Tensor, gate_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    if needs_gradient(x_TD, gate_TD, weight_D):
        result: Tensor = _GatedNorm.apply(x_TD, gate_TD, weight_D, eps)
        return result
    wide_TD = x_TD.to(accumulation_dtype(x_TD))
    return _gated(wide_TD, inverse_rms(wide_TD, eps), weight_D, _opening(gate_TD)).to(x_TD.dtype)


def _opening(gate_TD: Tensor) -> Tensor:
    return torch.sigmoid(gate_TD.to(accumulation_dtype(gate_TD)))


def _gated(wide_TD: Tensor, scale_T1: Tensor, weight_D: Tensor, open_TD: Tensor) -> Tensor:
    """Wide to the end: the caller rounds once."""
    return (wide_TD * scale_T1).mul_(weight_D).mul_(open_TD)


class _Context(Context):
    dtype: torch.dtype


class _GatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, x_TD: Tensor, gate_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        wide_TD = x_TD.to(accumulation_dtype(x_TD))
        scale_T1 = inverse_rms(wide_TD, eps)
        open_TD = _opening(gate_TD)
        ctx.save_for_backward(wide_TD, scale_T1, open_TD, weight_D)
        ctx.dtype = x_TD.dtype
        return _gated(wide_TD, scale_T1, weight_D, open_TD).to(x_TD.dtype)

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, scale_T1, open_TD, weight_D = ctx.saved_tensors
        dtype = ctx.dtype
        wide_D = weight_D.to(x_TD.dtype)
        dy_TD = gradients[0].to(x_TD.dtype) * open_TD
        product_TD = dy_TD * x_TD
        dweight_D = torch.mv(product_TD.t(), scale_T1.squeeze(1))
        dx_TD = norm_gradient(dy_TD, product_TD, x_TD, scale_T1, wide_D)
        # sigmoid' = open * (1 - open), and one factor open is in dy already.
        dgate_TD = product_TD.mul_(wide_D).mul_(scale_T1).addcmul_(product_TD, open_TD, value=-1)
        return dx_TD.to(dtype), dgate_TD.to(dtype), dweight_D.to(weight_D.dtype), None
