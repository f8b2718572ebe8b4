"""How attention layers reach the rest of their sequence: all that differs between training and generation.

A block computes q, k, v and what follows; the pass it is given mixes tokens. So trainer and rollout run the
same block code. Legend: T packed tokens, H heads, G key heads, D head size.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from forklight_kernels import LightningForm, lightning_attention, softmax_attention


class AttentionPass(Protocol):
    """Token mixing for one forward pass over one batch."""

    @property
    def positions_T(self) -> Tensor:
        """Each token's position in its own sequence."""
        ...

    def mix_lightning(self, layer: int, qkv: tuple[Tensor, Tensor, Tensor], slopes_H: Tensor) -> Tensor:
        """q, k and v [T, H, P] come before their silu."""
        ...

    def mix_softmax(self, layer: int, qkv: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """q [T, H, P], k and v [T, G, P]; q and k are rotated."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedPass:
    """Whole sequences packed one after another, nothing remembered: training and scoring."""

    cu_seqlens: Tensor
    positions_T: Tensor

    @classmethod
    def over(cls, cu_seqlens: Tensor) -> "PackedPass":
        return cls(cu_seqlens=cu_seqlens, positions_T=packed_positions(cu_seqlens))

    def mix_lightning(self, layer: int, qkv: tuple[Tensor, Tensor, Tensor], slopes_H: Tensor) -> Tensor:
        o_THD, _ = lightning_attention(*qkv, slopes_H, self.cu_seqlens, LightningForm(applies_silu=True))
        return o_THD

    def mix_softmax(self, layer: int, qkv: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return softmax_attention(*qkv, self.cu_seqlens)


def packed_positions(cu_seqlens: Tensor) -> Tensor:
    """0, 1, 2, ... counted anew in every packed sequence."""
    lengths_N = (cu_seqlens[1:] - cu_seqlens[:-1]).to(torch.int64)
    starts_T = torch.repeat_interleave(cu_seqlens[:-1].to(torch.int64), lengths_N)
    return torch.arange(len(starts_T), device=cu_seqlens.device) - starts_T
