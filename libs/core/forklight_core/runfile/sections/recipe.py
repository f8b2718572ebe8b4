"""The loss: equations 4 to 7 of the paper and what may change while a run goes on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from forklight_core.runfile.sections.section import Section
from forklight_core.runfile.units import Count


class RecipeSection(Section):
    """The loss. Defaults are MiniMax-M1's; a contradiction of the paper needs allow_deviation."""

    algorithm: Literal["cispo", "grpo", "dapo"] = "cispo"
    """cispo clips the weight and keeps every token; grpo and dapo drop tokens by the unified mask."""
    eps_low: Annotated[float, Field(ge=0.0)] = 1.0
    """Lower bound of the ratio is 1 - eps_low; at 1 or above there is no lower bound."""
    eps_high: Annotated[float, Field(gt=0.0)] = 4.0
    """Upper bound of the ratio is 1 + eps_high; 4 makes the ceiling 5."""
    mask_eps_low: Annotated[float, Field(gt=0.0)] | None = None
    """Unified mask: drop tokens with A < 0 and ratio below 1 - this. For grpo and dapo; none for cispo."""
    mask_eps_high: Annotated[float, Field(gt=0.0)] | None = None
    """Unified mask: drop tokens with A > 0 and ratio above 1 + this. For grpo and dapo; none for cispo."""
    kl_coefficient: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of a KL penalty to the behaviour policy. The paper has none."""
    overlong_penalty: bool = True
    """DAPO's soft penalty: from 0 to -1 over the last overlong_tokens of the window."""
    overlong_tokens: Count = 4096
    """Length of the soft zone at the end of the window, in tokens."""
    allow_deviation: bool = False
    """Accept settings that contradict the paper."""
