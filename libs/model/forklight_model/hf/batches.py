"""Packed sequences as right-padded batches of sequences of like length, and back.

Padding follows a sequence's last token, so causality alone keeps it out of every real one: no mask, no tricks
with positions, whatever the architecture. Nothing of one sequence can reach another.
Legend: T packed tokens, N sequences of a batch, L the longest of them, P tokens of a batch without padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

LEAST_SHARE = 0.75
"""A batch takes sequences of at least this share of its longest one: so much of it is real, at least."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PaddedBatch:
    """Some sequences of a pack."""

    index_NL: Tensor
    """Place in the pack of each token; padding repeats a sequence's last token."""
    places_P: Tensor
    """Of the real tokens in the flattened batch, in the pack's order inside a sequence."""
    tokens_P: Tensor
    """Their places in the pack."""


def cut_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of the sequences of each batch, longest first; always the same cut."""
    batches: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        if not batches or lengths[number] < LEAST_SHARE * lengths[batches[-1][0]]:
            batches.append([])
        batches[-1].append(number)
    return batches


def lay_out(ends: Sequence[int], device: torch.device) -> list[PaddedBatch]:
    """The batches of a pack that is cut at `ends` (cu_seqlens, on the host)."""
    lengths = [end - start for start, end in pairwise(ends)]
    return [
        _lay_out(ends, lengths, members, device) for members in cut_by_length(lengths) if lengths[members[0]]
    ]


def to_pack_order(batches: Sequence[PaddedBatch], parts: Sequence[Tensor]) -> Tensor:
    """One row a packed token, from each batch's real rows. Differentiable."""
    if len(parts) == 1 and len(batches[0].index_NL) == 1:
        return parts[0]
    order_T = torch.cat([batch.tokens_P for batch in batches]).argsort()
    return torch.cat(list(parts)).index_select(0, order_T)


def _lay_out(
    ends: Sequence[int], lengths: Sequence[int], members: Sequence[int], device: torch.device
) -> PaddedBatch:
    starts_N1 = torch.tensor([ends[number] for number in members])[:, None]
    lengths_N1 = torch.tensor([lengths[number] for number in members])[:, None]
    place_L = torch.arange(lengths[members[0]])
    index_NL = starts_N1 + torch.minimum(place_L, lengths_N1 - 1)
    places_P = (place_L < lengths_N1).flatten().nonzero().squeeze(1)
    return PaddedBatch(
        index_NL=index_NL.to(device),
        places_P=places_P.to(device),
        tokens_P=index_NL.flatten()[places_P].to(device),
    )
