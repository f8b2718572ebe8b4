"""Generation's two steps, prefill and decode, over a cache. The blocks are the trainer's own.

Legend: T new tokens, B sequences, V vocabulary.
"""

import torch
from torch import Tensor

from forklight_core.errors import InvalidInputError
from forklight_kernels.packing import sequence_offsets
from forklight_model.attention_pass import packed_positions
from forklight_model.cache import HybridCache
from forklight_model.generation_pass import DecodePass, PrefillPass
from forklight_model.model import HybridModel
from forklight_model.routing import Routing


@torch.inference_mode()
def prefill(
    model: HybridModel,
    cache: HybridCache,
    slots_B: Tensor,
    input_ids_T: Tensor,
    cu_seqlens: Tensor,
    routing: Routing | None = None,
) -> Tensor:
    """Feed each slot its packed tokens, after what it has seen; fp32 logits [B, V] of the last ones."""
    slots = _checked_slots(cache, slots_B)
    lengths_B = cu_seqlens[1:].to(torch.int64) - cu_seqlens[:-1]
    _check_cut(cu_seqlens, len(input_ids_T), len(slots))
    seen_B = cache.lengths_S[slots_B]
    seen: list[int] = seen_B.tolist()
    _check_room(cache, slots, (seen_B + lengths_B).tolist())
    step = PrefillPass(
        cache=cache,
        slots_B=slots_B,
        cu_seqlens=cu_seqlens,
        positions_T=packed_positions(cu_seqlens) + torch.repeat_interleave(seen_B, lengths_B),
        lengths_B=seen_B + lengths_B,
        seen=tuple(seen),
    )
    hidden_TD = model.run_stack(input_ids_T, step, routing)
    cache.lengths_S[slots_B] = step.lengths_B
    return model.logits(hidden_TD[cu_seqlens[1:].to(torch.int64) - 1])


@torch.inference_mode()
def decode(
    model: HybridModel,
    cache: HybridCache,
    slots_B: Tensor,
    input_ids_B: Tensor,
    routing: Routing | None = None,
) -> Tensor:
    """Feed each slot one token; fp32 logits [B, V] for the next."""
    slots = _checked_slots(cache, slots_B)
    if len(input_ids_B) != len(slots):
        raise InvalidInputError(f"decode got {len(input_ids_B)} tokens for {len(slots)} slots")
    lengths: list[int] = (cache.lengths_S[slots_B] + 1).tolist()
    _check_room(cache, slots, lengths)
    step = DecodePass.over(cache, slots_B, run=_contiguous_run(slots), longest=max(lengths))
    return advance(model, step, input_ids_B, routing)


def advance(
    model: HybridModel, step: DecodePass, input_ids_B: Tensor, routing: Routing | None = None
) -> Tensor:
    """`decode` without its checks: nothing here waits for the device, so a CUDA graph can hold it."""
    hidden_BD = model.run_stack(input_ids_B, step, routing)
    step.cache.lengths_S.index_add_(0, step.slots_B, torch.ones_like(step.slots_B))
    return model.logits(hidden_BD)


def _check_cut(cu_seqlens: Tensor, num_tokens: int, num_slots: int) -> None:
    try:
        offsets = sequence_offsets(cu_seqlens, num_tokens)
    except ValueError as error:
        raise InvalidInputError(str(error)) from error
    if len(offsets) - 1 != num_slots or len(set(offsets)) != len(offsets):
        raise InvalidInputError(
            f"cu_seqlens must cut {num_tokens} tokens into {num_slots} sequences of at least one; "
            f"got {list(offsets)}"
        )


def _checked_slots(cache: HybridCache, slots_B: Tensor) -> list[int]:
    slots: list[int] = slots_B.tolist()
    if not slots or len(set(slots)) != len(slots) or min(slots) < 0 or max(slots) >= cache.num_slots:
        raise InvalidInputError(
            f"slots must be at least one, distinct and within 0 to {cache.num_slots - 1}; got {slots}"
        )
    return slots


def _check_room(cache: HybridCache, slots: list[int], lengths: list[int]) -> None:
    longest = max(lengths)
    if longest > cache.max_tokens:
        raise InvalidInputError(
            f"slot {slots[lengths.index(longest)]} would hold {longest} tokens, the cache was made for "
            f"{cache.max_tokens}; end the sequence earlier or make the cache larger"
        )


def _contiguous_run(slots: list[int]) -> slice | None:
    """The slots as a slice if they are one: then caches are used in place, without a copy each way."""
    first = slots[0]
    return slice(first, first + len(slots)) if slots == list(range(first, first + len(slots))) else None
