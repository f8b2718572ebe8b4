"""Held-out evaluation."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from forklight_core.runfile.sections.section import Positive, Section
from forklight_core.runfile.units import parse_seconds


def _unlike(values: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(values)) != len(values):
        raise ValueError("pass_at names a k twice")
    return values


class EvaluationSection(Section):
    """Held-out evaluation, served by the rollout pods while training goes on."""

    every_versions: Annotated[int, Field(ge=0)] = 5
    """Open a round at every so many policy versions; 0 never."""
    num_prompts: Positive = 64
    """Held-out prompts a round."""
    samples_per_prompt: Annotated[int, Field(ge=1, le=1000)] = 1
    """Samples of each held-out prompt; more make pass@k possible, and the estimate of pass@1 steadier."""
    pass_at: Annotated[tuple[Positive, ...], AfterValidator(_unlike)] = (1,)
    """k of pass@k: the chance that one of k samples passes. At most samples_per_prompt."""
    pass_threshold: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """A sample passes when its part `correct` is at least this (else its `judge`, else its reward)."""
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    """Level of the intervals around the figures of a round."""
    max_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.25
    """Of a pod's places in the decode batch, for evaluation at once (one group in any case)."""
    final_wait_s: Annotated[float, Field(ge=0.0, allow_inf_nan=False), BeforeValidator(parse_seconds)] = (
        1800.0
    )
    """Time the last version's round may take after the last step; 0: the run ends without it."""
    temperature: Annotated[float, Field(ge=0.0, le=10.0)] = 1.0
    """Sampling temperature of evaluation; 0 is greedy."""
    goal_reward: Annotated[float, Field(ge=0.0)] | None = None
    """Finish the run when a complete round reaches this mean reward."""
