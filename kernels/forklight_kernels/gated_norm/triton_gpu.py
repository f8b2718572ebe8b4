"""gated_norm on a GPU: the norm's kernels with a gate. Legend: T tokens, D width."""

import torch
from torch import Tensor

from forklight_kernels.backend import TRITON_DTYPES
from forklight_kernels.checks import require_dtype
from forklight_kernels.gradient import Context, needs_gradient
from forklight_kernels.rms_norm.triton_rows import NormTile, run_backward, run_forward


def gated_norm(
    x_TD: Tensor, gate_TD: Tensor, weight_D: Tensor, eps: float, tile: NormTile | None = None
) -> Tensor:
    require_dtype("x_TD", x_TD, TRITON_DTYPES)
    if needs_gradient(x_TD, gate_TD, weight_D):
        result: Tensor = _GatedNorm.apply(x_TD, gate_TD, weight_D, eps, tile)
        return result
    return run_forward(x_TD, gate_TD, weight_D, eps, tile)[0]


class _Context(Context):
    tile: NormTile | None


class _GatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context, x_TD: Tensor, gate_TD: Tensor, weight_D: Tensor, eps: float, tile: NormTile | None
    ) -> Tensor:
        y_TD, inverse_T = run_forward(x_TD, gate_TD, weight_D, eps, tile)
        ctx.save_for_backward(x_TD, gate_TD, weight_D, inverse_T)
        ctx.tile = tile
        return y_TD

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, gate_TD, weight_D, inverse_T = ctx.saved_tensors
        dx_TD, dgate_TD, dweight_D = run_backward(gradients[0], x_TD, gate_TD, weight_D, inverse_T, ctx.tile)
        return dx_TD, dgate_TD, dweight_D, None, None
