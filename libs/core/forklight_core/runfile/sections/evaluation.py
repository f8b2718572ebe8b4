"""Held-out evaluation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from forklight_core.runfile.sections.section import Positive, Section


class EvaluationSection(Section):
    """Held-out evaluation, served by the rollout pods while training goes on."""

    every_versions: Annotated[int, Field(ge=0)] = 5
    """Open a round at every so many policy versions; 0 never."""
    num_prompts: Positive = 64
    """Held-out prompts a round."""
    temperature: Annotated[float, Field(ge=0.0, le=10.0)] = 1.0
    """Sampling temperature of evaluation; 0 is greedy."""
    goal_reward: Annotated[float, Field(ge=0.0)] | None = None
    """Finish the run when a complete round reaches this mean reward."""
