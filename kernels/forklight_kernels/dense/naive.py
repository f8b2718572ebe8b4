"""The product by its definition. Legend: T tokens, D width in, N width out."""

import torch
from torch import Tensor

from forklight_kernels.packing import accumulation_dtype
from forklight_kernels.residual import Residual


def dense(x_TD: Tensor, weight_ND: Tensor, residual: Residual | None, out_dtype: torch.dtype) -> Tensor:
    exact = accumulation_dtype(x_TD)
    out_TN = x_TD.to(exact) @ weight_ND.to(exact).T
    if residual is not None:
        out_TN = residual.alpha * residual.x_TD.to(exact) + residual.beta * out_TN
    return out_TN.to(out_dtype)
