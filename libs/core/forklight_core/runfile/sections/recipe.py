"""The loss: equations 4 to 7 of the paper and what may change while a run goes on."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from forklight_core.runfile.sections.section import Fraction, Positive, Section
from forklight_core.runfile.units import Count

Normalization = Literal["token", "sample", "combined"]


class ScheduleEntry(Section):
    """Other values from a step or a window on; what an entry does not give stays as it was."""

    from_step: Positive | None = None
    """First optimizer step of these values."""
    from_window: Count | None = None
    """They hold in this length window, in tokens, and in longer ones."""
    over_steps: Positive | None = None
    """Numbers go there in a straight line over so many steps. Needs from_step. None: at once."""
    eps_high: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    """As recipe.eps_high; the paper lowers it in late stages."""
    grad_clip: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    """As trainer.grad_clip; the paper lowers it in late stages."""
    normalization: Normalization | None = None
    """As recipe.normalization; the paper's late stages are combined."""
    combined_token_share: Fraction | None = None
    """As recipe.combined_token_share."""
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """As trainer.learning_rate; warm-up applies to it too."""

    @property
    def start(self) -> str:
        """How messages call an entry."""
        kind, value = ("step", self.from_step) if self.from_step is not None else ("window", self.from_window)
        return f"from_{kind} = {value}"

    @property
    def numbers(self) -> dict[str, float]:
        """What is given of what may go in a straight line."""
        names = ("eps_high", "grad_clip", "combined_token_share", "learning_rate")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.from_step is None) == (self.from_window is None):
            raise ValueError("give from_step or from_window, and not both: when do these values begin?")
        if not self.numbers and self.normalization is None:
            raise ValueError(
                f"the entry {self.start} changes nothing: give eps_high, grad_clip, normalization, "
                "combined_token_share or learning_rate"
            )
        if self.over_steps is not None and self.from_step is None:
            raise ValueError(
                f"the entry {self.start} has over_steps: a line starts at a step, and when a window is "
                "reached is not known; use from_step, or leave over_steps out"
            )
        if self.over_steps is not None and not self.numbers:
            raise ValueError(
                f"the entry {self.start} has over_steps and no number: normalization changes at once; give "
                "eps_high, grad_clip, combined_token_share or learning_rate, or leave over_steps out"
            )
        return self


def _check_order(entries: tuple[ScheduleEntry, ...]) -> tuple[ScheduleEntry, ...]:
    """Steps rise and windows rise; the two kinds may alternate."""
    for name in ("from_step", "from_window"):
        started = [entry for entry in entries if getattr(entry, name) is not None]
        for before, after in pairwise(started):
            if getattr(after, name) <= getattr(before, name):
                raise ValueError(
                    f"the entry {after.start} stands after the entry {before.start}: later entries override "
                    f"earlier ones, so every {name} must be above the one before; put them in order"
                )
    return entries


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
    normalization: Normalization = "token"
    """token: every drawn token of a step counts the same. sample: every sample does. combined: between."""
    combined_token_share: Fraction = 0.5
    """For combined: share of the weight that goes by tokens; the rest goes by samples."""
    overlong_penalty: bool = True
    """DAPO's soft penalty: from 0 to -1 over the last overlong_tokens of the window."""
    overlong_tokens: Count = 4096
    """Length of the soft zone at the end of the window, in tokens."""
    allow_deviation: bool = False
    """Accept settings that contradict the paper."""
    schedule: Annotated[tuple[ScheduleEntry, ...], AfterValidator(_check_order)] = ()
    """Values of later stages, as [[recipe.schedule]] tables; later entries override earlier ones."""
