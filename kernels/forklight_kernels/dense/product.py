"""The door of the product: x W^T, and the residual sum that may end it."""

import torch
from torch import Tensor

from forklight_kernels.backend import Backend, backend_for
from forklight_kernels.checks import require, require_dims, require_same, require_shape
from forklight_kernels.dense import naive, torch_cpu
from forklight_kernels.residual import Residual


def dense(
    x_TD: Tensor,
    weight_ND: Tensor,
    residual: Residual | None = None,
    *,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """x @ weight^T, [T, N]; with a residual alpha * residual + beta * (x @ weight^T).

    Sums are fp32 and rounded once, to `out_dtype` (x's own unless given). Differentiable in all tensors.
    """
    if not _is_fine(x_TD, weight_ND, residual):
        _refuse(x_TD, weight_ND, residual)
    backend = backend_for(x_TD)
    out_dtype = out_dtype or x_TD.dtype
    if backend is Backend.TRITON:
        from forklight_kernels.dense import triton_gpu

        return triton_gpu.dense(x_TD, weight_ND, residual, out_dtype)
    if backend is Backend.NAIVE:
        return naive.dense(x_TD, weight_ND, residual, out_dtype)
    return torch_cpu.dense(x_TD, weight_ND, residual, out_dtype)


def _is_fine(x_TD: Tensor, weight_ND: Tensor, residual: Residual | None) -> bool:
    """The tests of `_refuse` without its messages: those alone cost more than a small product."""
    if x_TD.dim() != 2 or weight_ND.dim() != 2:
        return False
    (num_rows, depth), (width, weight_depth), dtype, device = (
        x_TD.shape,
        weight_ND.shape,
        x_TD.dtype,
        x_TD.device,
    )
    if depth != weight_depth or weight_ND.dtype != dtype or weight_ND.device != device:
        return False
    if residual is None:
        return True
    joined = residual.x_TD
    return joined.shape == (num_rows, width) and joined.dtype == dtype and joined.device == device


def _refuse(x_TD: Tensor, weight_ND: Tensor, residual: Residual | None) -> None:
    require_dims("x", x_TD, 2, "[T, D]")
    require_dims("weight", weight_ND, 2, "[N, D]")
    require(
        x_TD.shape[1] == weight_ND.shape[1],
        f"x has {x_TD.shape[1]} columns and weight {weight_ND.shape[1]}; they must be equal",
    )
    require_same(x=x_TD, weight=weight_ND)
    if residual is not None:
        require_same(x=x_TD, residual=residual.x_TD)
        require_shape("residual", residual.x_TD, (len(x_TD), len(weight_ND)), "x's rows and weight's rows")
