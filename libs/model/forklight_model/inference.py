"""Generation's two steps, prefill and decode, over a cache. The blocks are the trainer's own.

Legend: T new tokens, B sequences, V vocabulary, H heads, G key heads, P head size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from forklight_core.errors import InvalidInputError
from forklight_kernels import cached_attention, lightning_attention, lightning_decode, softmax_attention
from forklight_model.attention_pass import packed_positions
from forklight_model.cache import HybridCache
from forklight_model.model import HybridModel


@torch.inference_mode()
def prefill(
    model: HybridModel, cache: HybridCache, slots_B: Tensor, input_ids_T: Tensor, cu_seqlens: Tensor
) -> Tensor:
    """Feed each slot its packed tokens, after what it has seen; fp32 logits [B, V] of the last ones."""
    slots = _checked_slots(cache, slots_B)
    lengths_B = cu_seqlens[1:].to(torch.int64) - cu_seqlens[:-1]
    if len(lengths_B) != len(slots) or int(cu_seqlens[-1]) != len(input_ids_T) or bool((lengths_B < 1).any()):
        raise InvalidInputError(
            f"cu_seqlens must cut {len(input_ids_T)} tokens into {len(slots)} sequences of at least one; "
            f"got {cu_seqlens.tolist()}"
        )
    seen_B = cache.lengths_S[slots_B]
    _check_room(cache, slots, seen_B + lengths_B)
    step = _PrefillPass(
        cache=cache,
        slots_B=slots_B,
        cu_seqlens=cu_seqlens,
        positions_T=packed_positions(cu_seqlens) + torch.repeat_interleave(seen_B, lengths_B),
        lengths_B=seen_B + lengths_B,
        is_fresh=not bool(seen_B.any()),
    )
    hidden_TD = model.run_stack(input_ids_T, step, None)
    cache.lengths_S[slots_B] = step.lengths_B
    return model.logits(hidden_TD[cu_seqlens[1:].to(torch.int64) - 1])


@torch.inference_mode()
def decode(model: HybridModel, cache: HybridCache, slots_B: Tensor, input_ids_B: Tensor) -> Tensor:
    """Feed each slot one token; fp32 logits [B, V] for the next."""
    slots = _checked_slots(cache, slots_B)
    if len(input_ids_B) != len(slots):
        raise InvalidInputError(f"decode got {len(input_ids_B)} tokens for {len(slots)} slots")
    seen_B = cache.lengths_S[slots_B]
    _check_room(cache, slots, seen_B + 1)
    step = _DecodePass(
        cache=cache,
        slots_B=slots_B,
        run=_contiguous_run(slots),
        positions_T=seen_B,
        cu_seqlens=torch.arange(len(slots) + 1, dtype=torch.int32, device=slots_B.device),
        longest=int(seen_B.max()) + 1,
    )
    hidden_BD = model.run_stack(input_ids_B, step, None)
    cache.lengths_S[slots_B] = seen_B + 1
    return model.logits(hidden_BD)


def _checked_slots(cache: HybridCache, slots_B: Tensor) -> list[int]:
    slots: list[int] = slots_B.tolist()
    if not slots or len(set(slots)) != len(slots) or min(slots) < 0 or max(slots) >= cache.num_slots:
        raise InvalidInputError(
            f"slots must be at least one, distinct and within 0 to {cache.num_slots - 1}; got {slots}"
        )
    return slots


def _check_room(cache: HybridCache, slots: list[int], lengths_B: Tensor) -> None:
    if int(lengths_B.max()) > cache.max_tokens:
        slot = slots[int(lengths_B.argmax())]
        raise InvalidInputError(
            f"slot {slot} would hold {int(lengths_B.max())} tokens, the cache was made for "
            f"{cache.max_tokens}; end the sequence earlier or make the cache larger"
        )


def _contiguous_run(slots: list[int]) -> slice | None:
    """The slots as a slice if they are one: then caches are used in place, without a copy each way."""
    first = slots[0]
    return slice(first, first + len(slots)) if slots == list(range(first, first + len(slots))) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _PrefillPass:
    cache: HybridCache
    slots_B: Tensor
    cu_seqlens: Tensor
    positions_T: Tensor
    lengths_B: Tensor
    """Tokens of each slot after this pass."""
    is_fresh: bool
    """No slot has seen a token yet, so nothing before this pass needs reading."""

    def mix_lightning(self, layer: int, qkv: tuple[Tensor, Tensor, Tensor], slopes_H: Tensor) -> Tensor:
        states_SHPP = self.cache.states_ASHPP[self.cache.lightning_place[layer]]
        initial = None if self.is_fresh else states_SHPP[self.slots_B]
        o_THP, final_BHPP = lightning_attention(*qkv, slopes_H, self.cu_seqlens, initial)
        states_SHPP[self.slots_B] = final_BHPP
        return o_THP

    def mix_softmax(self, layer: int, qkv: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        place = self.cache.softmax_place[layer]
        keys_SGLP, values_SGLP = self.cache.keys_FSGLP[place], self.cache.values_FSGLP[place]
        q_THP, k_TGP, v_TGP = qkv
        slots_T = torch.repeat_interleave(
            self.slots_B, (self.cu_seqlens[1:] - self.cu_seqlens[:-1]).to(torch.int64)
        )
        keys_SGLP[slots_T, :, self.positions_T] = k_TGP
        values_SGLP[slots_T, :, self.positions_T] = v_TGP
        if self.is_fresh:
            return softmax_attention(q_THP, k_TGP, v_TGP, self.cu_seqlens)
        longest = int(self.lengths_B.max())
        keys_BGLP, values_BGLP = (cached[self.slots_B, :, :longest] for cached in (keys_SGLP, values_SGLP))
        return cached_attention(q_THP, keys_BGLP, values_BGLP, self.cu_seqlens, self.lengths_B)


@dataclass(frozen=True, slots=True, kw_only=True)
class _DecodePass:
    cache: HybridCache
    slots_B: Tensor
    run: slice | None
    positions_T: Tensor
    cu_seqlens: Tensor
    longest: int

    def mix_lightning(self, layer: int, qkv: tuple[Tensor, Tensor, Tensor], slopes_H: Tensor) -> Tensor:
        states_SHPP = self.cache.states_ASHPP[self.cache.lightning_place[layer]]
        if self.run is not None:
            return lightning_decode(*qkv, slopes_H, states_SHPP[self.run])
        states_BHPP = states_SHPP[self.slots_B]
        o_BHP = lightning_decode(*qkv, slopes_H, states_BHPP)
        states_SHPP[self.slots_B] = states_BHPP
        return o_BHP

    def mix_softmax(self, layer: int, qkv: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        place = self.cache.softmax_place[layer]
        keys_SGLP, values_SGLP = self.cache.keys_FSGLP[place], self.cache.values_FSGLP[place]
        q_BHP, k_BGP, v_BGP = qkv
        keys_SGLP[self.slots_B, :, self.positions_T] = k_BGP
        values_SGLP[self.slots_B, :, self.positions_T] = v_BGP
        chosen = self.run if self.run is not None else self.slots_B
        keys_BGLP, values_BGLP = keys_SGLP[chosen, :, : self.longest], values_SGLP[chosen, :, : self.longest]
        return cached_attention(q_BHP, keys_BGLP, values_BGLP, self.cu_seqlens, self.positions_T + 1)
