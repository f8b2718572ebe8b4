"""The product by torch's own matrix routines, the residual sum inside the same call.

Torch's own gradient would keep the weight's transpose, a view of memory that is gone where weights are
gathered for a layer's pass and let go; ours keeps the weight itself, and computes the same.
Legend: T tokens, D width in, N width out.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear

from forklight_kernels.gradient import Context, needs_gradient
from forklight_kernels.residual import Residual


def dense(x_TD: Tensor, weight_ND: Tensor, residual: Residual | None, out_dtype: torch.dtype) -> Tensor:
    residual_TN = None if residual is None else residual.x_TD
    if needs_gradient(x_TD, weight_ND, residual_TN):
        scales = (1.0, 1.0) if residual is None else (residual.alpha, residual.beta)
        result: Tensor = _Dense.apply(x_TD, weight_ND, residual_TN, scales, out_dtype)
        return result
    return _multiply(x_TD, weight_ND, residual, out_dtype)


def _multiply(x_TD: Tensor, weight_ND: Tensor, residual: Residual | None, out_dtype: torch.dtype) -> Tensor:
    if out_dtype != x_TD.dtype:  # no routine of torch's CPU path widens its output
        x_TD, weight_ND = x_TD.to(out_dtype), weight_ND.to(out_dtype)
        residual = _widened(residual, out_dtype)
    if residual is None:
        return linear(x_TD, weight_ND)
    return torch.addmm(residual.x_TD, x_TD, weight_ND.t(), beta=residual.alpha, alpha=residual.beta)


def _widened(residual: Residual | None, dtype: torch.dtype) -> Residual | None:
    if residual is None:
        return None
    return Residual(x_TD=residual.x_TD.to(dtype), alpha=residual.alpha, beta=residual.beta)


class _Context(Context):
    needs_input_grad: tuple[bool, ...]
    scales: tuple[float, float]


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        x_TD: Tensor,
        weight_ND: Tensor,
        residual_TN: Tensor | None,
        scales: tuple[float, float],
        out_dtype: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(x_TD, weight_ND)
        ctx.scales = scales
        residual = None
        if residual_TN is not None:
            residual = Residual(x_TD=residual_TN, alpha=scales[0], beta=scales[1])
        return _multiply(x_TD, weight_ND, residual, out_dtype)

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weight_ND = ctx.saved_tensors
        (alpha, beta), (needs_x, needs_weight, needs_residual, *_) = ctx.scales, ctx.needs_input_grad
        dout_TN, dtype = gradients[0], x_TD.dtype
        dx_TD = torch.mm(dout_TN, weight_ND.to(dout_TN.dtype)) if needs_x else None
        dweight_ND = torch.mm(dout_TN.t(), x_TD.to(dout_TN.dtype)) if needs_weight else None
        return (
            None if dx_TD is None else _scaled(dx_TD, beta).to(dtype),
            None if dweight_ND is None else _scaled(dweight_ND, beta).to(dtype),
            _scaled(dout_TN, alpha).to(dtype) if needs_residual else None,
            None,
            None,
        )


def _scaled(gradient: Tensor, factor: float) -> Tensor:
    return gradient if factor == 1 else gradient * factor
