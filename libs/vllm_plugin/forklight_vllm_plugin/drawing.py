"""Drawing a batch's next tokens with our own sampler, whatever model the logits come from.

A draw is a function of its logits, seed and position, so a response goes on from a prefix as if it had never
stopped. Legend: B sequences, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from forklight_kernels import SampledTokens, SamplingRequest, sampler
from forklight_vllm_plugin.arguments import RequestArguments


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrawBatch:
    """The rules of the rows of a batch; good for as long as the same sequences are in it."""

    temperatures_B: Tensor
    top_ps_B: Tensor
    top_ks_B: Tensor | None
    min_ps_B: Tensor | None
    seeds_B: Tensor
    is_filtered: bool

    @classmethod
    def of(cls, rows: Sequence[RequestArguments], device: torch.device) -> DrawBatch:
        """Rules of these rows, on the device."""

        def column(values: list[float] | list[int], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)

        top_ks, min_ps = [row.top_k for row in rows], [row.min_p for row in rows]
        return cls(
            temperatures_B=column([row.temperature for row in rows], torch.float32),
            top_ps_B=column([row.top_p for row in rows], torch.float32),
            top_ks_B=column(top_ks, torch.int32) if any(top_ks) else None,
            min_ps_B=column(min_ps, torch.float32) if any(min_ps) else None,
            seeds_B=column([row.seed for row in rows], torch.int64),
            is_filtered=any(row.is_filtered for row in rows),
        )


def draw(logits_BV: Tensor, batch: DrawBatch, positions_B: Tensor) -> SampledTokens:
    """Each row's token at its position, its log-prob where it was drawn, and the model's own."""
    request = SamplingRequest(
        temperatures_B=batch.temperatures_B,
        top_ps_B=batch.top_ps_B,
        top_ks_B=batch.top_ks_B,
        min_ps_B=batch.min_ps_B,
        seeds_B=batch.seeds_B,
        positions_B=positions_B.to(torch.int64),
        is_filtered=batch.is_filtered,
    )
    return sampler(logits_BV, request)
