"""A pack of sequences cut into equal slices of consecutive tokens, one a process.

Every process is given the whole pack's ids, so no message is needed to know a neighbour's first token.
Legend: n processes, T tokens of the pack, S tokens of a slice (n S of the padded pack), L layers, K slots.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from forklight_core.errors import InvalidInputError
from forklight_model.routing import RecordedRouting
from forklight_model.shard import Shard

PADDING_ID = 0
"""Tokens that fill the last slice are a sequence of their own, which nobody scores."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackSlice:
    """One process's tokens, and what it must know of the rest."""

    shard: Shard
    num_tokens: int
    """Of the pack, before it was padded."""
    cu_seqlens: Tensor
    """Of the padded pack."""
    input_ids_S: Tensor
    targets_S: Tensor
    """The token after each place, which may lie in the next process's slice."""
    is_scored_S: Tensor
    """Whether that is a token of the same sequence."""

    @classmethod
    def of(cls, input_ids_T: Tensor, cu_seqlens: Tensor, shard: Shard) -> "PackSlice":
        """This process's slice of a pack that all of them are given."""
        num_tokens = len(input_ids_T)
        if num_tokens == 0:
            raise InvalidInputError("a pack without tokens cannot be cut into slices")
        width = -(-num_tokens // shard.size)
        total = width * shard.size
        own = slice(shard.rank * width, (shard.rank + 1) * width)
        ids = pad(input_ids_T, (0, total - num_tokens), value=PADDING_ID)
        is_first = torch.zeros(total + 1, dtype=torch.bool, device=ids.device)
        is_first[cu_seqlens.to(torch.int64)] = True  # the last one is where padding begins
        is_first[num_tokens:] = True
        return cls(
            shard=shard,
            num_tokens=num_tokens,
            cu_seqlens=pad(cu_seqlens, (0, 1), value=total) if total > num_tokens else cu_seqlens,
            input_ids_S=ids[own],
            targets_S=ids.roll(-1)[own],
            is_scored_S=~is_first[1:][own],
        )

    @property
    def start(self) -> int:
        """Place of the slice's first token in the pack."""
        return self.shard.rank * len(self.input_ids_S)

    @property
    def num_own(self) -> int:
        """Tokens of the slice that are not padding: its first ones."""
        return min(max(0, self.num_tokens - self.start), len(self.input_ids_S))

    @property
    def scored_places_S(self) -> Tensor:
        """Which token of the pack each statistic of `slice_logprobs` is about, where it is about one."""
        width = len(self.input_ids_S)
        return torch.arange(self.start + 1, self.start + 1 + width, device=self.input_ids_S.device)

    def slice_routing(self, recorded: RecordedRouting) -> RecordedRouting:
        """The record of these tokens, of one for the whole pack. Padding takes the first experts."""
        own = slice(self.start, self.start + self.num_own)
        experts_LSK, weights_LSK = recorded.experts_LTK[:, own], recorded.weights_LTK[:, own]
        num_layers, _, top_k = experts_LSK.shape
        missing = len(self.input_ids_S) - self.num_own
        if missing:
            slots_K = torch.arange(top_k, device=experts_LSK.device).to(experts_LSK.dtype)
            experts_LSK = torch.cat((experts_LSK, slots_K.expand(num_layers, missing, top_k)), dim=1)
            weights_LSK = torch.cat(
                (weights_LSK, weights_LSK.new_full((num_layers, missing, top_k), 1 / top_k)), dim=1
            )
        return RecordedRouting(experts_LTK=experts_LSK, weights_LTK=weights_LSK)
