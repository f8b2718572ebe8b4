"""The loss on demonstrations that are never learned from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from forklight_trainer.ports import TrainEngine
from forklight_trainer.sft.corpus import Corpus
from forklight_trainer.sft.events import HoldoutRound
from forklight_trainer.sft.packs import pack_examples


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldoutState:
    """What is remembered of the rounds so far."""

    loss: float
    best_loss: float
    best_step: int
    rounds_since_best: int = 0


def measure(engine: TrainEngine, corpus: Corpus, *, pack_tokens: int) -> float:
    """Mean negative log-likelihood of the counted tokens, by their weights; one pack in memory at a time."""
    total = weight = 0.0
    for numbers in _split(corpus, pack_tokens):
        examples = [corpus.read(number) for number in numbers]
        share = sum(example.weight * int(example.counted_T.sum()) for example in examples)
        names = [corpus.name(number) for number in numbers]
        for pack in pack_examples(engine, examples, names, pack_tokens=pack_tokens):
            logprobs_R = engine.score(pack, 1.0).logprobs_T[pack.response_index_R].double()
            total -= share * float((logprobs_R * pack.weights_R).sum())
        weight += share
    return total / weight


def add_round(before: HoldoutState | None, step: int, loss: float) -> HoldoutState:
    """Remember another round."""
    if before is None or loss < before.best_loss:
        return HoldoutState(loss=loss, best_loss=loss, best_step=step)
    return HoldoutState(
        loss=loss,
        best_loss=before.best_loss,
        best_step=before.best_step,
        rounds_since_best=before.rounds_since_best + 1,
    )


def round_of(state: HoldoutState, step: int) -> HoldoutRound:
    """What is told of it."""
    return HoldoutRound(
        step=step,
        loss=state.loss,
        perplexity=math.exp(min(state.loss, 700.0)),
        best_loss=state.best_loss,
        best_step=state.best_step,
    )


def _split(corpus: Corpus, pack_tokens: int) -> Iterator[range]:
    """The demonstrations in the order of their file, as many at once as fit a pack."""
    first = tokens = 0
    for number, length in enumerate(corpus.lines["num_tokens"].tolist()):
        if tokens + length > pack_tokens:
            yield range(first, number)
            first, tokens = number, 0
        tokens += length
    yield range(first, len(corpus))
