"""Which prompts are drawn: domains by schedule, difficulty, levels of puzzles, synthetic prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

from forklight_core.runfile.sections.section import Fraction, Positive, Section
from forklight_core.runfile.units import Count

Weight = Annotated[float, Field(ge=0.0, le=1e6, allow_inf_nan=False)]
DomainName = Annotated[str, Field(min_length=1, max_length=150)]


def _rising(points: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    places = [place for place, _ in points]
    if places != sorted(set(places)):
        raise ValueError("the first numbers of the pairs must rise: [[0, 0.0], [500, 1.0]]")
    return points


class DomainSection(Section):
    """The share of one domain: weight x what its points say, divided by the sum of all domains."""

    weight: Weight = 1.0
    """Weight beside the other domains; 0 leaves the domain out."""
    by_step: Annotated[tuple[tuple[Annotated[int, Field(ge=0)], Weight], ...], AfterValidator(_rising)] = ()
    """Factors of the weight by committed step, linear between points: [[200, 0.0], [600, 1.0]] mixes in."""
    by_window: Annotated[tuple[tuple[Count, Weight], ...], AfterValidator(_rising)] = ()
    """Factors of the weight from a length window on, each until the next: [["64Ki", 0.5]]."""


class DifficultySection(Section):
    """Prompts that teach most: in proportion to E[p(1-p)] of what is known of their pass rate p."""

    decay: Annotated[float, Field(gt=0.0, le=1.0)] = 0.99
    """What earlier evidence on a prompt is multiplied with when a group of it has finished."""
    explore: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Weight that every prompt keeps, whatever is known of it; 1 draws all prompts alike."""


class LevelsSection(Section):
    """Prompts that have a level: each task rises by itself as the policy learns it."""

    start: Annotated[int, Field(ge=0, le=1000)] = 1
    """Level that every task starts at (the nearest one below, or its lowest)."""
    keep_below: Annotated[int, Field(ge=0, le=1000)] = 1
    """So many levels below a task's own are drawn as well; nothing above it is."""
    smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Share of the moving average of pass rates that a finished group leaves as it was."""
    raise_above: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """A task rises by a level when its average at the level is above this."""
    lower_below: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """And falls by one when it is below this; 0: never."""
    min_groups: Positive = 16
    """Finished groups of the level before a task may leave it."""


class SyntheticSection(Section):
    """Synthetic prompts lose share where responses are long."""

    sources: tuple[str, ...] = ()
    """Sources that are synthetic, with * and ?; rows may say `synthetic` themselves, which wins."""
    from_window: Count | None = None
    """From this length window on. None: the largest of length.windows; never if there is one window."""
    factor: Fraction = 0.5
    """What is left of their share; the rest goes to the other prompts."""


class CurriculumSection(Section):
    """Which prompts are drawn, and how often."""

    on: bool = False
    """Draw by weights. Off: every prompt once an epoch, in the order of `prompts.shuffle`."""
    domains: dict[DomainName, DomainSection] = Field(default_factory=dict)
    """By the `domain` of rows (else their source, else their kind). None named: by numbers of prompts."""
    difficulty: DifficultySection = DifficultySection()
    """Prompts that teach most."""
    levels: LevelsSection = LevelsSection()
    """Prompts that have a level."""
    synthetic: SyntheticSection = SyntheticSection()
    """Synthetic prompts at long windows."""
