"""Packing samples of any length into micro-batches of at most so many tokens, without padding.

Legend: T packed tokens, N sequences, R response tokens among the T that the policy drew. What a tool put in
is fed to the model and is in no R-vector: no loss, no weight, no figure knows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from forklight_core.errors import InvalidInputError
from forklight_model.routing import RecordedRouting
from forklight_trainer.batches.balance import Cost, assign_packs
from forklight_trainer.batches.batch import TrainingSample
from forklight_trainer.loss.normalization import token_weights


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pack:
    """One micro-batch. The R-vectors follow `response_index_R`, sample after sample."""

    input_ids_T: Tensor
    cu_seqlens: Tensor  # int32 [N + 1]
    response_index_R: Tensor  # places of the drawn response tokens among the T
    behaviour_R: Tensor
    advantages_R: Tensor
    weights_R: Tensor  # float64: what each token weighs in the loss; those of a step sum to 1
    versions_R: Tensor
    sample_R: Tensor  # which sample of the step a token belongs to
    sample_indices: tuple[int, ...]
    routing: RecordedRouting | None = None
    """The experts to score with; None: the routers choose."""


def pack_samples(
    samples: Sequence[TrainingSample],
    advantages: Sequence[float],
    *,
    pack_tokens: int,
    weights: Sequence[float] | None = None,
    num_lanes: int = 1,
    cost: Cost = float,
) -> list[Pack]:
    """All samples of a step in packs of at most `pack_tokens`, round after round of `num_lanes`; always the
    same ones. `weights`: what each drawn token of a sample weighs; None: every token of the step the same.
    """
    for sample in samples:
        if sample.num_tokens > pack_tokens:
            raise InvalidInputError(
                f"sample {sample.sample_id} has {sample.num_tokens} tokens, a pack holds {pack_tokens}: "
                "set trainer.pack_tokens to at least the longest prompt plus sampling.max_new_tokens"
            )
    if weights is None:
        weights = token_weights([sample.num_drawn for sample in samples])
    lengths = [sample.num_tokens for sample in samples]
    assigned = assign_packs(lengths, capacity=pack_tokens, num_lanes=num_lanes, cost=cost)
    return [build_pack(samples, advantages, weights, members) for members in assigned]


def build_pack(
    samples: Sequence[TrainingSample],
    advantages: Sequence[float],
    weights: Sequence[float],
    members: Sequence[int],
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
        weights_R=torch.from_numpy(np.repeat(np.asarray([weights[i] for i in members]), counts)),
        versions_R=torch.from_numpy(
            np.concatenate([s.versions[places_D] for s, places_D in zip(chosen, drawn, strict=True)])
        ),
        sample_R=torch.from_numpy(np.repeat(np.asarray(members, dtype=np.int64), counts)),
        sample_indices=tuple(members),
    )
