"""Demonstrations as the packs of a step: no padding, no token of one seen by another.

Every counted token weighs its demonstration's weight over the weights of all counted tokens of the step, so
how a step is packed, and over how many processes it is spread, does not change its loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forklight_trainer.batches.balance import length_cost
from forklight_trainer.batches.batch import TrainingSample
from forklight_trainer.batches.packing import Pack, pack_samples
from forklight_trainer.ports import TrainEngine
from forklight_trainer.sft.examples import Example


def pack_examples(
    engine: TrainEngine, examples: Sequence[Example], names: Sequence[str], *, pack_tokens: int
) -> list[Pack]:
    """The packs of a step, balanced for the engine; always the same ones."""
    samples = [as_sample(example, name) for example, name in zip(examples, names, strict=True)]
    return pack_samples(
        samples,
        [0.0] * len(samples),
        pack_tokens=pack_tokens,
        weights=token_shares(examples),
        num_lanes=engine.num_lanes,
        cost=length_cost(engine.config),
    )


def token_shares(examples: Sequence[Example]) -> list[float]:
    """What a counted token of each example weighs; over all counted tokens these sum to 1."""
    whole = sum(example.weight * int(example.counted_T.sum()) for example in examples)
    return [example.weight / whole for example in examples]


def as_sample(example: Example, name: str) -> TrainingSample:
    """What is counted is what a policy would have drawn; the turns between are put in."""
    start = int(np.argmax(example.counted_T))
    response_ids = example.ids_T[start:]
    return TrainingSample(
        sample_id=name,
        prompt_ids=example.ids_T[:start],
        response_ids=response_ids,
        behaviour_logprobs=np.zeros(len(response_ids), dtype=np.float32),
        versions=np.zeros(len(response_ids), dtype=np.int64),
        reward=0.0,
        drawn=example.counted_T[start:],
    )
