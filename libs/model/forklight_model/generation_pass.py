"""How generation's layers reach the tokens before: through the cache, which they extend.

Prefill takes slots by number. Decode takes rows 0 .. B-1 to be slots 0 .. B-1 and works on them in place.
Legend: T new tokens, B sequences, N pages of a sequence, H heads, G key heads, P head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from forklight_kernels import (
    DecodeStep,
    append_keys,
    cached_attention,
    continue_lightning,
    lightning_decode,
    softmax_attention,
)
from forklight_model.cache import HybridCache
from forklight_model.cache_size import columns_for
from forklight_model.upload import upload, upload_offsets

QkvHeads = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillPass:
    """Several new tokens a sequence."""

    cache: HybridCache
    slots_B: Tensor
    table_BN: Tensor
    cu_seqlens: Tensor
    positions_T: Tensor
    lengths_B: Tensor
    """Tokens of each slot after this pass."""
    seen: tuple[int, ...]
    """Tokens of each slot before it."""

    @classmethod
    def over(
        cls, cache: HybridCache, slots: Sequence[int], lengths: Sequence[int], seen: Sequence[int]
    ) -> "PrefillPass":
        """The pass that feeds these slots so many tokens each, after so many seen."""
        totals = [before + new for before, new in zip(seen, lengths, strict=True)]
        positions_T = torch.cat(
            [torch.arange(before, total) for before, total in zip(seen, totals, strict=True)]
        )
        slots_B, lengths_B = upload([*slots, *totals], cache.device).view(2, len(totals))
        # On a CPU attention gathers every page that the table names: those in use are enough.
        num_columns = cache.num_columns if cache.has_open_chunks else columns_for(max(totals))
        return cls(
            cache=cache,
            slots_B=slots_B,
            table_BN=cache.table_SN[slots_B, :num_columns],
            cu_seqlens=upload_offsets(lengths, cache.device),
            positions_T=upload(positions_T, cache.device),
            lengths_B=lengths_B,
            seen=tuple(seen),
        )

    def mix_lightning(self, layer: int, qkv: QkvHeads, slopes_H: Tensor) -> Tensor:
        memory = self.cache.lightning_memory(layer)
        return continue_lightning(qkv, slopes_H, self.cu_seqlens, memory, self.slots_B, self.seen)

    def mix_softmax(self, layer: int, qkv: QkvHeads) -> Tensor:
        q_THP, k_TGP, v_TGP = qkv
        pages = self.cache.key_pages(layer, self.table_BN)
        append_keys(k_TGP, v_TGP, pages, self.positions_T, self.cu_seqlens)
        if not any(self.seen):
            return softmax_attention(q_THP, k_TGP, v_TGP, self.cu_seqlens)
        return cached_attention(q_THP, pages, self.lengths_B, self.cu_seqlens)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePass:
    """One new token a row; row b is slot b. An idle row writes nothing, whatever its slot holds."""

    cache: HybridCache
    num_rows: int
    is_live_B: Tensor | None
    """int64, 1 or 0 (idle); None: every row is live."""
    positions_T: Tensor
    """Tokens each row has seen: the place of its new one; -1 for an idle row."""
    lengths_B: Tensor
    """Places each row attends to, its new one among them; 0 for an idle row."""
    table_BN: Tensor

    @classmethod
    def over(cls, cache: HybridCache, num_rows: int, is_live_B: Tensor | None = None) -> "DecodePass":
        """The pass that extends the first slots by one token. Nothing here waits for a GPU."""
        lengths_B = cache.lengths_S[:num_rows] + 1
        if is_live_B is not None:
            lengths_B = lengths_B * is_live_B
        return cls(
            cache=cache,
            num_rows=num_rows,
            is_live_B=is_live_B,
            positions_T=lengths_B - 1,
            lengths_B=lengths_B,
            table_BN=cache.table_SN[:num_rows],
        )

    def mix_lightning(self, layer: int, qkv: QkvHeads, slopes_H: Tensor) -> Tensor:
        memory = self.cache.lightning_memory(layer, slice(self.num_rows))
        needs_lengths = memory.has_open_chunk or self.is_live_B is not None
        step = DecodeStep(lengths_B=self.positions_T if needs_lengths else None, applies_silu=True)
        return lightning_decode(*qkv, slopes_H, memory, step)

    def mix_softmax(self, layer: int, qkv: QkvHeads) -> Tensor:
        q_BHP, k_BGP, v_BGP = qkv
        pages = self.cache.key_pages(layer, self.table_BN)
        append_keys(k_BGP, v_BGP, pages, self.positions_T)
        return cached_attention(q_BHP, pages, self.lengths_B)
