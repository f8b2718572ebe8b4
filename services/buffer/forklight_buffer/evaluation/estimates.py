"""What an evaluation round says of the policy, and how sure that is. Pure arithmetic in float64.

Two samples of one prompt are no independent witnesses, so prompts are drawn again, never single samples:
intervals are those of a bootstrap over prompts, by percentiles. Samples without a score are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forklight_buffer.records import Estimates, EvaluatedSample, PassEstimate

RESAMPLES = 4000
DRAWN_AT_ONCE = 2**20
"""Draws held in memory at once: whatever the number of prompts, three times 8 MiB."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of a round. The seed makes the intervals the same whenever they are computed."""

    pass_at: tuple[int, ...] = (1,)
    pass_threshold: float = 1.0
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptResult:
    """One prompt: its scored samples, how many of them pass, and their rewards' sum."""

    num_scored: int
    num_passed: int
    sum_rewards: float


def estimate_round(samples: Sequence[EvaluatedSample], question: Question) -> Estimates:
    """pass@k and the interval of the mean reward of a complete round."""
    prompts = results_by_prompt(samples, question.pass_threshold)
    num_scored = np.array([prompt.num_scored for prompt in prompts], dtype=np.float64)
    sums = np.array([prompt.sum_rewards for prompt in prompts], dtype=np.float64)
    low = high = None
    if len(prompts) > 1:
        low, high = bootstrap(sums, num_scored, question.confidence, [question.seed, 0])
    passes = (estimate_pass(prompts, k, question) for k in sorted(question.pass_at))
    return Estimates(
        confidence=question.confidence,
        num_scored_prompts=len(prompts),
        reward_low=low,
        reward_high=high,
        pass_at=tuple(found for found in passes if found is not None),
    )


def results_by_prompt(samples: Sequence[EvaluatedSample], threshold: float) -> list[PromptResult]:
    """Prompts with at least one scored sample, in the order of their groups."""
    scored: dict[str, list[tuple[float, float]]] = {}
    for sample in samples:
        if sample.reward is not None:
            right = sample.reward if sample.correct is None else sample.correct
            scored.setdefault(sample.group_id, []).append((sample.reward, right))
    return [
        PromptResult(
            num_scored=len(found),
            num_passed=sum(right >= threshold for _, right in found),
            sum_rewards=math.fsum(reward for reward, _ in found),
        )
        for _, found in sorted(scored.items())
    ]


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the chance that k of the n samples, none taken twice, hold one of the c."""
    if num_samples - num_passed < k:
        return 1.0
    return 1.0 - math.prod(
        1.0 - k / number for number in range(num_samples - num_passed + 1, num_samples + 1)
    )


def estimate_pass(prompts: Sequence[PromptResult], k: int, question: Question) -> PassEstimate | None:
    """pass@k over the prompts that have k scored samples; None when there is none."""
    values = np.array(
        [pass_at_k(prompt.num_scored, prompt.num_passed, k) for prompt in prompts if prompt.num_scored >= k]
    )
    if not len(values):
        return None
    low, high = _interval_of_shares(values, question.confidence, [question.seed, k])
    return PassEstimate(k=k, value=float(values.mean()), low=low, high=high, num_prompts=len(values))


def _interval_of_shares(values: Array, confidence: float, seed: Sequence[int]) -> tuple[float, float]:
    """Of the mean of values between 0 and 1. Where all are 0, or all are 1, drawing again brings nothing new,
    which proves nothing: the bound is then the mean under which n such values in a row still come with the
    probability that the interval may miss.
    """
    unlikely = ((1.0 - confidence) / 2) ** (1.0 / len(values))
    if np.all(values == 1.0):
        return unlikely, 1.0
    if np.all(values == 0.0):
        return 0.0, 1.0 - unlikely
    if len(values) == 1:
        return 0.0, 1.0
    return bootstrap(values, np.ones_like(values), confidence, seed)


def bootstrap(
    sums: Array, sizes: Array, confidence: float, seed: Sequence[int], *, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Percentiles of sum(sums) / sum(sizes) over clusters drawn again with return."""
    generator, num_clusters = np.random.default_rng(list(seed)), len(sums)
    most = max(1, DRAWN_AT_ONCE // num_clusters)
    ratios: list[Array] = []
    for start in range(0, resamples, most):
        num_draws = min(most, resamples - start)
        drawn = generator.integers(num_clusters, size=(num_draws, num_clusters))
        ratios.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(np.concatenate(ratios), [tail, 1.0 - tail])
    return float(low), float(high)
