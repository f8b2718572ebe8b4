"""Packing samples of any length into micro-batches of at most so many tokens, without padding.

Legend: T packed tokens, N sequences, R response tokens among the T that the policy drew. What a tool put in
is fed to the model and is in no R-vector: no loss, no normaliser, no figure knows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from forklight_core.errors import InvalidInputError
from forklight_model.routing import RecordedRouting
from forklight_trainer.batches.batch import TrainingSample


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pack:
    """One micro-batch. The R-vectors follow `response_index_R`, sample after sample."""

    input_ids_T: Tensor
    cu_seqlens: Tensor  # int32 [N + 1]
    response_index_R: Tensor  # places of the drawn response tokens among the T
    behaviour_R: Tensor
    advantages_R: Tensor
    versions_R: Tensor
    sample_R: Tensor  # which sample of the step a token belongs to
    sample_indices: tuple[int, ...]
    routing: RecordedRouting | None = None
    """The experts to score with; None: the routers choose."""


def pack_samples(
    samples: Sequence[TrainingSample], advantages: Sequence[float], *, pack_tokens: int
) -> list[Pack]:
    """All samples of a step in as few packs as first-fit-decreasing finds; always the same ones."""
    bins = assign_bins([sample.num_tokens for sample in samples], pack_tokens, [s.sample_id for s in samples])
    return [build_pack(samples, advantages, members) for members in bins]


def assign_bins(lengths: Sequence[int], pack_tokens: int, names: Sequence[str]) -> list[list[int]]:
    """Indices of the sequences of each bin; longest first, each into the first bin with room."""
    bins: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if lengths[index] > pack_tokens:
            raise InvalidInputError(
                f"sample {names[index]} has {lengths[index]} tokens, a pack holds {pack_tokens}: "
                "set trainer.pack_tokens to at least the longest prompt plus sampling.max_new_tokens"
            )
        place = next((i for i, left in enumerate(room) if left >= lengths[index]), len(bins))
        if place == len(bins):
            bins.append([])
            room.append(pack_tokens)
        bins[place].append(index)
        room[place] -= lengths[index]
    return [sorted(members) for members in bins]


def build_pack(
    samples: Sequence[TrainingSample], advantages: Sequence[float], members: Sequence[int]
) -> Pack:
    """Lay these samples one behind the other."""
    chosen = [samples[index] for index in members]
    ends = np.cumsum([sample.num_tokens for sample in chosen])
    drawn = [sample.places_D for sample in chosen]
    places = [
        end - len(sample.response_ids) + places_D
        for end, sample, places_D in zip(ends, chosen, drawn, strict=True)
    ]
    counts = [len(places_D) for places_D in drawn]
    ids = [part for sample in chosen for part in (sample.prompt_ids, sample.response_ids)]
    return Pack(
        input_ids_T=torch.from_numpy(np.concatenate(ids).astype(np.int64)),
        cu_seqlens=torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)),
        response_index_R=torch.from_numpy(np.concatenate(places)),
        behaviour_R=torch.from_numpy(
            np.concatenate(
                [s.behaviour_logprobs[places_D] for s, places_D in zip(chosen, drawn, strict=True)]
            ).astype(np.float32)
        ),
        advantages_R=torch.from_numpy(np.repeat([advantages[i] for i in members], counts).astype(np.float32)),
        versions_R=torch.from_numpy(
            np.concatenate([s.versions[places_D] for s, places_D in zip(chosen, drawn, strict=True)])
        ),
        sample_R=torch.from_numpy(np.repeat(np.asarray(members, dtype=np.int64), counts)),
        sample_indices=tuple(members),
    )
