"""What a step's responses looked like as sequences: perplexity, tails, repetition, who is long.

Perplexity is the current weights' (the log-probs the loss uses), not what rollout recorded: one set of
weights judges every token, also those of a response that several versions wrote, the gate has compared these
numbers with rollout's, and an engine that records otherwise cannot move them. What it costs: between two
versions it holds what was learned since, so it swings a little with every publication.
Legend: D tokens of a response that the policy drew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from forklight.v1 import types_pb2
from forklight_trainer.batches.batch import TrainingBatch, TrainingSample
from forklight_trainer.steps.repetition import mark_repeated

FEWEST_LONG = 16  # drawn tokens; a quarter of fewer says nothing
FEWEST_IN_TAILS = 32  # tokens in all; a perplexity over fewer is noise
LARGEST_NLL = 700.0  # nat; its exponential is still a number

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceFigures:
    """Figures of one step; NaN where there was nothing to measure."""

    perplexity: float
    """Of all drawn tokens under the current weights, at the sampling temperature."""
    tail_perplexity: float
    """Of the last quarters of long responses: of the median's drawn tokens or more, and FEWEST_LONG."""
    tail_ratio: float
    """That, over the perplexity of the first quarters of the same responses."""
    repeated_share: float
    """Share of drawn tokens inside a stretch that the same response has had before."""
    repetition_stops: float
    """Share of responses that rollout stopped for repetition."""
    window_stops: float
    """Share of responses that filled their window."""
    length_mean_positive: float
    """Of samples with an advantage above 0."""
    length_p99_positive: float
    length_mean_negative: float
    """Of samples with an advantage below 0."""
    length_p99_negative: float


def sequence_figures(
    batch: TrainingBatch, advantages: Sequence[float], logprobs: Sequence[Float64Array]
) -> SequenceFigures:
    """Figures of a step. `logprobs` holds, for each sample of the batch, those of its drawn tokens."""
    samples = batch.samples
    head, tail = head_and_tail(logprobs)
    positive = [len(s.response_ids) for s, a in zip(samples, advantages, strict=True) if a > 0]
    negative = [len(s.response_ids) for s, a in zip(samples, advantages, strict=True) if a < 0]
    return SequenceFigures(
        perplexity=perplexity(np.concatenate([np.empty(0), *logprobs])),
        tail_perplexity=perplexity(tail),
        tail_ratio=perplexity(tail) / perplexity(head),
        repeated_share=repeated_share(samples),
        repetition_stops=_stopped_share(samples, types_pb2.FINISH_REASON_REPETITION),
        window_stops=_stopped_share(samples, types_pb2.FINISH_REASON_LENGTH),
        length_mean_positive=_mean(positive),
        length_p99_positive=_p99(positive),
        length_mean_negative=_mean(negative),
        length_p99_negative=_p99(negative),
    )


def perplexity(logprobs: Float64Array) -> float:
    """exp of the mean negative log-prob; NaN of nothing."""
    return math.exp(min(-float(logprobs.mean()), LARGEST_NLL)) if len(logprobs) else math.nan


def head_and_tail(logprobs: Sequence[Float64Array]) -> tuple[Float64Array, Float64Array]:
    """All tokens of the first and of the last quarters of the long responses: as many of both."""
    counts = [len(each) for each in logprobs]
    fewest = max(FEWEST_LONG, float(np.median(counts))) if counts else FEWEST_LONG
    long = [each for each in logprobs if len(each) >= fewest]
    heads = np.concatenate([np.empty(0), *(each[: len(each) // 4] for each in long)])
    tails = np.concatenate([np.empty(0), *(each[-(len(each) // 4) :] for each in long)])
    return (heads, tails) if len(tails) >= FEWEST_IN_TAILS else (np.empty(0), np.empty(0))


def repeated_share(samples: Sequence[TrainingSample]) -> float:
    """What tools put in is left out: the policy did not say it."""
    num_drawn = sum(sample.num_drawn for sample in samples)
    num_repeated = sum(int(mark_repeated(sample.response_ids[sample.places_D]).sum()) for sample in samples)
    return num_repeated / num_drawn if num_drawn else math.nan


def _stopped_share(samples: Sequence[TrainingSample], reason: types_pb2.FinishReason) -> float:
    """Over the samples that say why they ended."""
    known = [s.finish_reason for s in samples if s.finish_reason != types_pb2.FINISH_REASON_UNSPECIFIED]
    return known.count(reason) / len(known) if known else math.nan


def _mean(lengths: Sequence[int]) -> float:
    return float(np.mean(lengths)) if lengths else math.nan


def _p99(lengths: Sequence[int]) -> float:
    return float(np.quantile(lengths, 0.99)) if lengths else math.nan
