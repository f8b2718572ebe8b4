"""Next-token sampling: temperature, three filters, one reproducible stream of numbers a sequence."""

import torch
from torch import Tensor

from forklight_kernels.backend import Backend, backend_for
from forklight_kernels.checks import require, require_dims, require_dtype, require_shape
from forklight_kernels.sampler import naive, torch_cpu
from forklight_kernels.sampler.types import SampledTokens, SamplingRequest


def sampler(logits_BV: Tensor, request: SamplingRequest) -> SampledTokens:
    """Draw one token a row. Each row depends only on its own logits and settings, never on the batch."""
    _check(logits_BV, request)
    backend = backend_for(logits_BV)
    if backend is Backend.NAIVE:
        return naive.sampler(logits_BV, request)
    if backend is Backend.TRITON and len(logits_BV) > 0:
        from forklight_kernels.sampler import triton_gpu

        return triton_gpu.sampler(logits_BV, request)
    return torch_cpu.sampler(logits_BV, request)


def _check(logits_BV: Tensor, request: SamplingRequest) -> None:
    require_dims("logits", logits_BV, 2, "[B, V]")
    require(logits_BV.shape[1] > 0, "logits have no columns; the vocabulary cannot be empty")
    settings = {
        "temperatures": request.temperatures_B,
        "top_ps": request.top_ps_B,
        "seeds": request.seeds_B,
        "positions": request.positions_B,
    }
    if request.top_ks_B is not None:
        require_dtype("top_ks", request.top_ks_B, (torch.int32,))
        settings["top_ks"] = request.top_ks_B
    if request.min_ps_B is not None:
        require_dtype("min_ps", request.min_ps_B, (torch.float32,))
        settings["min_ps"] = request.min_ps_B
    for name, setting_B in settings.items():
        _check_setting(name, setting_B, logits_BV)


def _check_setting(name: str, setting_B: Tensor, logits_BV: Tensor) -> None:
    require_shape(name, setting_B, (len(logits_BV),), "one a row of logits")
    if setting_B.device != logits_BV.device:
        raise ValueError(
            f"{name} are on {setting_B.device}; they must be on {logits_BV.device}, beside the logits"
        )


__all__ = ["SampledTokens", "SamplingRequest", "sampler"]
