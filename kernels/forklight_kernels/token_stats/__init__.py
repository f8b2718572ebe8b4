"""The LM head: fp32 log-probability of each target token and the entropy, at a temperature.

`token_stats` is for training; `head_logits` and `logit_stats` are the same in two steps, for generation.
"""

from math import inf

import torch
from torch import Tensor

from forklight_kernels.backend import Backend, backend_for
from forklight_kernels.checks import require, require_dims, require_dtype, require_same, require_shape
from forklight_kernels.token_stats import naive, torch_cpu


def token_stats(
    hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies [T], fp32; never holds [T, V]. Differentiable in hidden and weight.

    A target outside the vocabulary raises on a CPU; on a GPU, where looking would wait, it gives nan.
    """
    _check_head(hidden_TD, weight_VD)
    _check_targets(targets_T, hidden_TD, temperature)
    backend = backend_for(hidden_TD)
    if backend is Backend.NAIVE:
        return naive.token_stats(hidden_TD, weight_VD, targets_T, temperature)
    if backend is Backend.TRITON and len(hidden_TD) > 0:
        from forklight_kernels.token_stats import triton_gpu

        return triton_gpu.token_stats(hidden_TD, weight_VD, targets_T, temperature)
    return torch_cpu.token_stats(hidden_TD, weight_VD, targets_T, temperature)


def head_logits(hidden_BD: Tensor, weight_VD: Tensor, out_BV: Tensor | None = None) -> Tensor:
    """fp32 logits [B, V] for the sampler, no gradient. On a GPU their bits are those inside `token_stats`.

    They go into `out_BV`, a dense fp32 tensor, where that is given.
    """
    _check_head(hidden_BD, weight_VD)
    hidden_BD, weight_VD = hidden_BD.detach(), weight_VD.detach()
    if out_BV is not None:
        _check_out(out_BV, hidden_BD, weight_VD)
    backend = backend_for(hidden_BD)
    if backend is Backend.TRITON and len(hidden_BD) > 0:
        from forklight_kernels.token_stats import triton_gpu

        return triton_gpu.head_logits(hidden_BD, weight_VD, out_BV)
    module = naive if backend is Backend.NAIVE else torch_cpu
    logits_BV = module.head_logits(hidden_BD, weight_VD)
    return logits_BV if out_BV is None else out_BV.copy_(logits_BV)


def _check_out(out_BV: Tensor, hidden_BD: Tensor, weight_VD: Tensor) -> None:
    require_shape("out", out_BV, (len(hidden_BD), len(weight_VD)), "one row a hidden state")
    require_dtype("out", out_BV, (torch.float32,))
    require(out_BV.is_contiguous(), "out must be contiguous")


def logit_stats(logits_BV: Tensor, targets_B: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """`token_stats` of stored logits, [B] and [B], fp32. No gradient. Equal bits on a GPU, in any batch."""
    require_dims("logits", logits_BV, 2, "[B, V]")
    require(logits_BV.shape[1] > 0, "logits have no columns; the vocabulary cannot be empty")
    _check_targets(targets_B, logits_BV, temperature)
    logits_BV = logits_BV.detach()
    backend = backend_for(logits_BV)
    if backend is Backend.NAIVE:
        return naive.logit_stats(logits_BV, targets_B, temperature)
    if backend is Backend.TRITON and len(logits_BV) > 0:
        from forklight_kernels.token_stats import triton_gpu

        return triton_gpu.logit_stats(logits_BV, targets_B, temperature)
    return torch_cpu.logit_stats(logits_BV, targets_B, temperature)


def _check_head(hidden_TD: Tensor, weight_VD: Tensor) -> None:
    require_dims("hidden", hidden_TD, 2, "[T, D]")
    require_dims("weight", weight_VD, 2, "[V, D]")
    require_same(hidden=hidden_TD, weight=weight_VD)
    require(
        hidden_TD.shape[1] == weight_VD.shape[1],
        f"hidden has {hidden_TD.shape[1]} columns and weight {weight_VD.shape[1]}; they must be equal",
    )
    require(weight_VD.numel() > 0, f"weight has shape {tuple(weight_VD.shape)}; it cannot be empty")


def _check_targets(targets_T: Tensor, rows: Tensor, temperature: float) -> None:
    require_shape("targets", targets_T, (len(rows),), "one a row")
    require_dtype("targets", targets_T, (torch.int64,))
    require(
        targets_T.device == rows.device, f"targets are on {targets_T.device}; they must be on {rows.device}"
    )
    require(0 < temperature < inf, f"temperature is {temperature}; it must be a number above 0")


__all__ = ["head_logits", "logit_stats", "token_stats"]
