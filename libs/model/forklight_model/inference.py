"""Generation's two steps, prefill and decode, over a cache. The blocks are the trainer's own.

Legend: T new tokens, B sequences, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from forklight_core.errors import InvalidInputError
from forklight_model.cache import PAGE_TOKENS, SCRATCH_PAGE, HybridCache
from forklight_model.generation_pass import DecodePass, PrefillPass
from forklight_model.model import HybridModel
from forklight_model.routing import Routing


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPieces:
    """How a pack of new tokens is cut, in numbers that the host knows."""

    slots: Sequence[int]
    """Of each piece, distinct."""
    lengths: Sequence[int]
    """Tokens of each piece, at least one."""
    seen: Sequence[int] | None = None
    """Tokens each slot has seen before; None reads them from the cache, which waits for a GPU."""


@torch.inference_mode()
def prefill(
    model: HybridModel,
    cache: HybridCache,
    pieces: PromptPieces,
    input_ids_T: Tensor,
    routing: Routing | None = None,
) -> Tensor:
    """Feed each slot its packed tokens, after what it has seen; fp32 logits [B, V] of the last ones."""
    _check_pieces(cache, pieces, len(input_ids_T))
    seen = pieces.seen
    if seen is None:
        seen = cache.lengths_S[torch.tensor(pieces.slots, device=cache.device)].tolist()
    _check_room(cache, pieces.slots, [sum(both) for both in zip(seen, pieces.lengths, strict=True)])
    step = PrefillPass.over(cache, pieces.slots, pieces.lengths, seen)
    hidden_TD = model.run_stack(input_ids_T, step, routing)
    cache.lengths_S.index_copy_(0, step.slots_B, step.lengths_B)
    last_B = step.cu_seqlens[1:] - 1
    return model.logits(hidden_TD.index_select(0, last_B))


@torch.inference_mode()
def decode(
    model: HybridModel,
    cache: HybridCache,
    num_rows: int,
    input_ids_B: Tensor,
    routing: Routing | None = None,
) -> Tensor:
    """Feed slots 0 to `num_rows` - 1 one token each; fp32 logits [B, V] for the next. Waits for a GPU."""
    if not 1 <= num_rows <= cache.num_slots or len(input_ids_B) != num_rows:
        raise InvalidInputError(
            f"decode got {len(input_ids_B)} tokens for {num_rows} rows; a row is a slot from slot 0 on, the "
            f"cache has {cache.num_slots}"
        )
    seen_B = cache.lengths_S[:num_rows]
    _check_room(cache, range(num_rows), (seen_B + 1).tolist())
    if cache.is_managed:
        _check_pages(cache, seen_B)
    return advance(model, DecodePass.over(cache, num_rows), input_ids_B, routing)


@torch.inference_mode()
def advance(
    model: HybridModel,
    step: DecodePass,
    input_ids_B: Tensor,
    routing: Routing | None = None,
    out_BV: Tensor | None = None,
) -> Tensor:
    """`decode` without its checks, for rows that may be idle. The logits go into `out_BV` if that is given.

    An idle row changes neither its slot nor a page; its logits are numbers that say nothing. On a GPU nothing
    here waits, so a CUDA graph can hold it together with `DecodePass.over`, which reads the lengths.
    """
    hidden_BD = model.run_stack(input_ids_B, step, routing)
    seen_B = step.cache.lengths_S[: step.num_rows]
    seen_B.add_(1 if step.is_live_B is None else step.is_live_B)
    return model.logits(hidden_BD, out_BV)


@torch.inference_mode()
def copy_weights(model: HybridModel, source: HybridModel) -> None:
    """Give a model another's weights in place: what refers to its tensors, a recorded graph too, goes on.

    Nothing waits; the copies happen in the order of the current stream. The source is of the same shape, in
    whatever dtype and place (pinned memory, if it is on the host of a GPU).
    """
    ours, theirs = dict(model.named_parameters()), dict(source.named_parameters())
    for name in sorted(ours.keys() | theirs.keys()):
        shapes = [None if name not in each else tuple(each[name].shape) for each in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise InvalidInputError(
                f"{name} is {shapes[0]} in the model and {shapes[1]} in the source; copy_weights takes "
                "models of one shape"
            )
    for name, weight in ours.items():
        weight.copy_(theirs[name], non_blocking=True)


def _check_pieces(cache: HybridCache, pieces: PromptPieces, num_tokens: int) -> None:
    slots, lengths, seen = pieces.slots, pieces.lengths, pieces.seen
    if len(set(slots)) != len(slots) or not all(0 <= slot < cache.num_slots for slot in slots):
        raise InvalidInputError(
            f"slots must be distinct and within 0 to {cache.num_slots - 1}; got {list(slots)}"
        )
    if not slots or len(lengths) != len(slots) or min(lengths) < 1 or sum(lengths) != num_tokens:
        raise InvalidInputError(
            f"lengths must cut {num_tokens} tokens into {len(slots)} pieces of at least one; "
            f"got {list(lengths)}"
        )
    if seen is not None and (len(seen) != len(slots) or min(seen) < 0):
        raise InvalidInputError(f"seen must be a length of at least 0 for each slot; got {list(seen)}")


def _check_room(cache: HybridCache, slots: Sequence[int], lengths: list[int]) -> None:
    longest = max(lengths)
    if longest > cache.max_tokens:
        raise InvalidInputError(
            f"slot {slots[lengths.index(longest)]} would hold {longest} tokens, the cache was made for "
            f"{cache.max_tokens}; end the sequence earlier or make the cache larger"
        )


def _check_pages(cache: HybridCache, seen_B: Tensor) -> None:
    columns_B1 = (seen_B // PAGE_TOKENS)[:, None]
    pages: list[int] = cache.table_SN[: len(seen_B)].gather(1, columns_B1).flatten().tolist()
    if SCRATCH_PAGE in pages:
        slot = pages.index(SCRATCH_PAGE)
        raise InvalidInputError(
            f"slot {slot} has no page for its next token, place {int(seen_B[slot])}; write_table comes first"
        )
