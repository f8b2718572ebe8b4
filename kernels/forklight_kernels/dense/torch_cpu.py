"""The product by torch's own matrix routines, the residual sum inside the same call.

Legend: T tokens, D width in, N width out.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear

from forklight_kernels.residual import Residual


def dense(x_TD: Tensor, weight_ND: Tensor, residual: Residual | None, out_dtype: torch.dtype) -> Tensor:
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
