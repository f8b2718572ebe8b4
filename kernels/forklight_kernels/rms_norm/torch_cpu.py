"""Root-mean-square norm in few passes, with its gradient by hand. Legend: T tokens, D width."""

from functools import lru_cache

import torch
from torch import Tensor

from forklight_kernels.gradient import Context, needs_gradient
from forklight_kernels.packing import accumulation_dtype


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    if needs_gradient(x_TD, weight_D):
        result: Tensor = _RmsNorm.apply(x_TD, weight_D, eps)
        return result
    return normed(x_TD, weight_D, eps)


def normed(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """The norm without a backward pass."""
    wide_TD = x_TD.to(accumulation_dtype(x_TD))
    return (wide_TD * inverse_rms(wide_TD, eps)).to(x_TD.dtype).mul_(weight_D)


def inverse_rms(x_TD: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x^2) + eps) per token, [T, 1]; mean and sum are one matrix-vector product."""
    eps_1, mean_D = _mean_weights(x_TD.shape[-1], eps, x_TD.dtype, x_TD.device)
    return torch.addmv(eps_1.expand(len(x_TD)), x_TD.square(), mean_D).rsqrt_().unsqueeze(-1)


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def _mean_weights(width: int, eps: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    eps_1 = torch.full((1,), eps, dtype=dtype, device=device)
    return eps_1, torch.full((width,), 1 / width, dtype=dtype, device=device)


def norm_gradient(
    dy_TD: Tensor, product_TD: Tensor, x_TD: Tensor, scale_T1: Tensor, weight_D: Tensor
) -> Tensor:
    """Gradient of x -> weight * x * scale(x), given dy and product = dy * x. Overwrites dy."""
    dot_T = torch.mv(product_TD, weight_D)
    pull_T1 = scale_T1.pow(3).mul_(dot_T.div_(-x_TD.shape[-1])[:, None])
    return dy_TD.mul_(weight_D).mul_(scale_T1).addcmul_(x_TD, pull_T1)


class _Context(Context):
    dtype: torch.dtype


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        wide_TD = x_TD.to(accumulation_dtype(x_TD))
        scale_T1 = inverse_rms(wide_TD, eps)
        ctx.save_for_backward(wide_TD, scale_T1, weight_D)
        ctx.dtype = x_TD.dtype
        return (wide_TD * scale_T1).to(x_TD.dtype).mul_(weight_D)

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, scale_T1, weight_D = ctx.saved_tensors
        wide_D = weight_D.to(x_TD.dtype)
        product_TD = gradients[0] * x_TD
        dweight_D = torch.mv(product_TD.t(), scale_T1.squeeze(1))
        dy_TD = gradients[0].to(x_TD.dtype, copy=True)
        dx_TD = norm_gradient(dy_TD, product_TD, x_TD, scale_T1, wide_D)
        return dx_TD.to(ctx.dtype), dweight_D.to(weight_D.dtype), None
