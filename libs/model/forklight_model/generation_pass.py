"""How generation's layers reach the tokens before: through the cache, which they extend.

Two forms of one thing. With open chunks (a GPU) every layer reads and writes its slots in place, by number.
Without (a CPU) a run of slots is used as a view, and slots apart are gathered and written back.
Legend: T new tokens, B sequences, H heads, G key heads, P head size, L cached places.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from forklight_kernels import (
    DecodeStep,
    KeyPages,
    LightningForm,
    append_keys,
    cached_attention,
    continue_lightning,
    lightning_attention,
    lightning_decode,
    softmax_attention,
)
from forklight_model.cache import HybridCache

QkvHeads = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillPass:
    """Several new tokens a sequence."""

    cache: HybridCache
    slots_B: Tensor
    cu_seqlens: Tensor
    positions_T: Tensor
    lengths_B: Tensor
    """Tokens of each slot after this pass."""
    seen: tuple[int, ...]
    """Tokens of each slot before it."""

    @property
    def is_fresh(self) -> bool:
        """No slot has seen a token yet, so nothing before this pass needs reading."""
        return not any(self.seen)

    def mix_lightning(self, layer: int, qkv: QkvHeads, slopes_H: Tensor) -> Tensor:
        if self.cache.has_open_chunks:
            memory = self.cache.lightning_memory(layer)
            return continue_lightning(qkv, slopes_H, self.cu_seqlens, memory, self.slots_B, self.seen)
        states_SHPP = self.cache.lightning_memory(layer).states_SHDD
        form = LightningForm(
            initial_state=None if self.is_fresh else states_SHPP[self.slots_B], applies_silu=True
        )
        o_THP, final_BHPP = lightning_attention(*qkv, slopes_H, self.cu_seqlens, form)
        states_SHPP[self.slots_B] = final_BHPP
        return o_THP

    def mix_softmax(self, layer: int, qkv: QkvHeads) -> Tensor:
        q_THP, k_TGP, v_TGP = qkv
        pages = self.cache.key_pages(layer, self.slots_B[:, None].to(torch.int32))
        append_keys(k_TGP, v_TGP, pages, self.positions_T, self.cu_seqlens)
        if self.is_fresh:
            return softmax_attention(q_THP, k_TGP, v_TGP, self.cu_seqlens)
        return cached_attention(q_THP, pages, self.lengths_B, self.cu_seqlens)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePass:
    """One new token a sequence."""

    cache: HybridCache
    slots_B: Tensor
    positions_T: Tensor
    """Tokens each sequence has seen: the place of its new one."""
    lengths_B: Tensor
    table_BN: Tensor
    run: slice | None
    """The slots as a slice, where they are one."""
    longest: int
    """No sequence is longer after this pass."""

    @classmethod
    def over(cls, cache: HybridCache, slots_B: Tensor, *, run: slice | None, longest: int) -> "DecodePass":
        """The pass that extends these slots by one token."""
        seen_B = cache.lengths_S[slots_B]
        return cls(
            cache=cache,
            slots_B=slots_B,
            positions_T=seen_B,
            lengths_B=seen_B + 1,
            table_BN=slots_B[:, None].to(torch.int32),
            run=run,
            longest=longest,
        )

    def mix_lightning(self, layer: int, qkv: QkvHeads, slopes_H: Tensor) -> Tensor:
        in_place = DecodeStep(slots_B=None, lengths_B=self.positions_T, applies_silu=True)
        if self.cache.has_open_chunks:
            by_number = DecodeStep(slots_B=self.slots_B, lengths_B=self.positions_T, applies_silu=True)
            return lightning_decode(*qkv, slopes_H, self.cache.lightning_memory(layer), by_number)
        if self.run is not None:
            return lightning_decode(*qkv, slopes_H, self.cache.lightning_memory(layer, self.run), in_place)
        memory = self.cache.lightning_memory(layer)
        by_number = DecodeStep(slots_B=self.slots_B, lengths_B=self.positions_T, applies_silu=True)
        return lightning_decode(*qkv, slopes_H, memory, by_number)

    def mix_softmax(self, layer: int, qkv: QkvHeads) -> Tensor:
        q_BHP, k_BGP, v_BGP = qkv
        pages = self.cache.key_pages(layer, self.table_BN)
        append_keys(k_BGP, v_BGP, pages, self.positions_T)
        return cached_attention(q_BHP, self._visible(layer, pages), self.lengths_B)

    def _visible(self, layer: int, pages: KeyPages) -> KeyPages:
        """On a CPU only the places in use are looked at; a GPU's kernel skips the others itself."""
        if self.cache.has_open_chunks:
            return pages
        if self.run is not None:
            whole = self.cache.key_pages(layer, None, self.run)
            keys, values = whole.keys_PGLD, whole.values_PGLD
        else:
            keys, values = pages.keys_PGLD[self.slots_B], pages.values_PGLD[self.slots_B]
        return KeyPages(
            keys_PGLD=keys[:, :, : self.longest], values_PGLD=values[:, :, : self.longest], table_BN=None
        )
