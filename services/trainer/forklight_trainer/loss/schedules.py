"""Which values of the recipe hold at a step, in a length window. Pure, and torch-free.

Entries apply in the order of the run file, each on what the ones before it made. An entry with `over_steps`
goes from what held before to its own values in a straight line: its first step is the first step on that
line, its last one is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from forklight_core.runfile.schema import RunFile
from forklight_core.runfile.sections.recipe import Normalization, ScheduleEntry
from forklight_trainer.loss.normalization import token_share


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeAt:
    """The values of one step."""

    eps_high: float | None
    """None: the algorithm does not clip weights."""
    grad_clip: float
    normalization: Normalization
    combined_token_share: float
    learning_rate: float

    @property
    def token_share(self) -> float:
        """Share of the loss that goes by tokens and not by samples."""
        return token_share(self.normalization, self.combined_token_share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What a run begins with, and its later stages."""

    base: RecipeAt
    entries: tuple[ScheduleEntry, ...] = ()
    warmup_steps: int = 0


def schedule_of(run_file: RunFile) -> Schedule:
    """The schedule that a run file asks for."""
    recipe, trainer = run_file.recipe, run_file.trainer
    base = RecipeAt(
        eps_high=recipe.eps_high if recipe.algorithm == "cispo" else None,
        grad_clip=trainer.grad_clip,
        normalization=recipe.normalization,
        combined_token_share=recipe.combined_token_share,
        learning_rate=trainer.learning_rate,
    )
    return Schedule(base=base, entries=recipe.schedule, warmup_steps=trainer.warmup_steps)


def settings_at(schedule: Schedule, *, step: int, window: int) -> RecipeAt:
    """The values of a step; step 1 is the first. Warm-up scales the learning rate that holds."""
    at = schedule.base
    for entry in schedule.entries:
        at = _apply(entry, at, _progress(entry, step=step, window=window))
    warmth = min(1.0, step / max(1, schedule.warmup_steps))
    return replace(at, learning_rate=at.learning_rate * warmth)


def settled_stages(schedule: Schedule) -> Sequence[RecipeAt]:
    """What the run begins with, then the values after each entry, with every line at its end."""
    stages = [schedule.base]
    for entry in schedule.entries:
        stages.append(_apply(entry, stages[-1], 1.0))
    return stages


def _progress(entry: ScheduleEntry, *, step: int, window: int) -> float:
    """How far an entry has come: 0 before it starts, 1 when it holds entirely."""
    if entry.from_step is None:
        return 1.0 if entry.from_window is not None and window >= entry.from_window else 0.0
    return min(1.0, max(0, step - entry.from_step + 1) / (entry.over_steps or 1))


def _apply(entry: ScheduleEntry, before: RecipeAt, progress: float) -> RecipeAt:
    if progress == 0.0:
        return before
    share = before.combined_token_share
    if entry.combined_token_share is not None:
        # A line starts at what the former normalisation amounts to: token is a share of 1, sample of 0.
        share = _between(before.token_share, entry.combined_token_share, progress)
    return RecipeAt(
        eps_high=before.eps_high and _between(before.eps_high, entry.eps_high, progress),
        grad_clip=_between(before.grad_clip, entry.grad_clip, progress),
        normalization=entry.normalization or before.normalization,
        combined_token_share=share,
        learning_rate=_between(before.learning_rate, entry.learning_rate, progress),
    )


def _between(former: float, target: float | None, progress: float) -> float:
    """The point on the line; exactly the target at its end."""
    if target is None:
        return former
    return target if progress == 1.0 else former + progress * (target - former)
