"""When a generation ends: stop ids, near-certain repetition, length; and the columns of the next step."""

from dataclasses import fields

import torch
from torch import Tensor

from forklight_kernels.backend import Backend, backend_for
from forklight_kernels.checks import require, require_dims, require_dtype, require_shape
from forklight_kernels.end_rules import naive, torch_cpu
from forklight_kernels.end_rules.reasons import EndReason
from forklight_kernels.end_rules.types import EndColumns
from forklight_kernels.sampler.types import SampledTokens

_DTYPES = {
    "is_live_B": torch.int64,
    "num_tokens_B": torch.int64,
    "max_tokens_B": torch.int64,
    "num_certain_B": torch.int32,
    "certain_limits_B": torch.int32,
    "certain_logprobs_B": torch.float32,
    "stop_ids_BK": torch.int64,
    "reasons_B": torch.uint8,
    "last_ids_B": torch.int64,
    "positions_B": torch.int64,
}


def apply_end_rules(tokens: SampledTokens, columns: EndColumns) -> None:
    """Count the tokens just drawn, in place: live rows only. A row that ends is not live afterwards."""
    _check(tokens, columns)
    backend = backend_for(tokens.raw_logprobs_B)
    if backend is Backend.NAIVE:
        naive.apply_end_rules(tokens, columns)
    elif backend is Backend.TRITON and len(columns.is_live_B) > 0:
        from forklight_kernels.end_rules import triton_gpu

        triton_gpu.apply_end_rules(tokens, columns)
    else:
        torch_cpu.apply_end_rules(tokens, columns)


def _check(tokens: SampledTokens, columns: EndColumns) -> None:
    require_dims("is_live", columns.is_live_B, 1, "[B]")
    require_dims("stop_ids", columns.stop_ids_BK, 2, "[B, K]")
    size, device = len(columns.is_live_B), columns.is_live_B.device
    _check_column("ids", tokens.ids_B, torch.int64, (size,), device)
    _check_column("raw_logprobs", tokens.raw_logprobs_B, torch.float32, (size,), device)
    for field in fields(columns):
        column: Tensor = getattr(columns, field.name)
        shape = (size, *column.shape[1:]) if field.name == "stop_ids_BK" else (size,)
        _check_column(field.name.rpartition("_")[0], column, _DTYPES[field.name], shape, device)


def _check_column(
    name: str, column: Tensor, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device
) -> None:
    if column.dtype != dtype:
        require_dtype(name, column, (dtype,))
    require_shape(name, column, shape, "the rows of is_live")
    if column.device != device:
        raise ValueError(f"{name} are on {column.device}; they must be on {device}, beside is_live")
    require(column.is_contiguous(), f"{name} must be contiguous: they are changed in place")


__all__ = ["EndColumns", "EndReason", "apply_end_rules"]
