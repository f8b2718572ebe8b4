"""The length window: when it grows, when it steps back, and the numbers that decided.

Pure: one observation a step, one decision back. Windows are named by their size, so that a list edited
between two starts still has a place for the restored run.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from forklight_core.runfile.sections.steering import LengthSection
from forklight_trainer.steering.figures import StepFigures
from forklight_trainer.steering.state import JsonObject, read_numbers, read_table, read_whole
from forklight_trainer.steering.trend import Trend, fit_trend

SURE = 1.645  # standard errors: one chance in twenty that the change is really beyond its limit
LARGEST_CHANGE = 700.0  # of a logarithm: its exponential is still a number


class Move(StrEnum):
    """What becomes of the window."""

    HOLD = "hold"
    ADVANCE = "advance"
    STEP_BACK = "step_back"


class Reason(StrEnum):
    """Why."""

    FIXED = "fixed"  # there is one window
    TROUBLED = "troubled"  # repetition or tails are beyond their limit
    YOUNG = "young"  # too few steps in this window, or too few measured
    LARGEST = "largest"  # there is no larger one
    COOLING = "cooling"  # stepped back not long ago
    SHORT = "short"  # lengths do not near the window
    MOVING = "moving"  # perplexity still changes
    UNSURE = "unsure"  # it may: the noise is too large to tell
    READY = "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """About the groups that are opened from now on."""

    move: Move
    reason: Reason
    before: int
    window: int
    """After the move, in tokens."""
    evidence: Mapping[str, float]


@dataclass(slots=True, kw_only=True)
class Memory:
    """What the controller remembers. All but `retreats` and `cool_down` begins anew with every move."""

    window: int
    num_steps: int = 0
    """Observed in this window."""
    log_perplexities: list[float] = field(default_factory=list)
    nearness: list[float] = field(default_factory=list)
    """99th percentile of lengths over the window."""
    num_troubled: int = 0
    """Steps in a row."""
    cool_down: int = 0
    """Steps that no advance may happen yet."""
    retreats: dict[int, int] = field(default_factory=dict)
    """How often each window was left downwards."""


class WindowController:
    """Holds the window and moves it, at most once in `min_steps`."""

    def __init__(self, settings: LengthSection, *, fixed_window: int) -> None:
        self._settings = settings
        self._windows = settings.windows or (fixed_window,)
        self._memory = Memory(window=self._windows[0])

    @property
    def window(self) -> int:
        """Tokens that a response opened now may have."""
        return self._memory.window

    def observe(self, figures: StepFigures) -> Decision:
        """Take in a step, decide."""
        self._take_in(figures)
        trend = self._trend()
        move, reason = self._decide(trend)
        before, evidence = self.window, self._evidence(figures, trend)
        if move is not Move.HOLD:
            self._move(1 if move is Move.ADVANCE else -1)
        return Decision(move=move, reason=reason, before=before, window=self.window, evidence=evidence)

    def state(self) -> dict[str, object]:
        """A JSON object; restoring it continues with the very same decisions."""
        memory = self._memory
        return {
            "window": memory.window,
            "num_steps": memory.num_steps,
            "log_perplexities": list(memory.log_perplexities),
            "nearness": list(memory.nearness),
            "num_troubled": memory.num_troubled,
            "cool_down": memory.cool_down,
            "retreats": {str(window): count for window, count in memory.retreats.items()},
        }

    def restore(self, state: JsonObject) -> None:
        """Go on from there. A window that the list no longer has becomes the next smaller one of the list."""
        remembered = read_whole(state, "window")
        window = max((w for w in self._windows if w <= remembered), default=self._windows[0])
        retreats = read_table(state, "retreats")
        memory = Memory(
            window=window,
            cool_down=read_whole(state, "cool_down"),
            retreats={int(name): read_whole(retreats, name) for name in retreats},
        )
        if window == remembered:
            memory.num_steps = read_whole(state, "num_steps")
            memory.log_perplexities = read_numbers(state, "log_perplexities")
            memory.nearness = read_numbers(state, "nearness")
            memory.num_troubled = read_whole(state, "num_troubled")
        self._memory = memory

    def _take_in(self, figures: StepFigures) -> None:
        memory, patience = self._memory, self._settings.patience
        memory.num_steps += 1
        memory.cool_down = max(0, memory.cool_down - 1)
        if figures.perplexity > 0:
            memory.log_perplexities = [*memory.log_perplexities, math.log(figures.perplexity)][-patience:]
        if figures.length_p99 >= 0:
            memory.nearness = [*memory.nearness, figures.length_p99 / (figures.window or self.window)]
            memory.nearness = memory.nearness[-patience:]
        if self._is_troubled(figures):
            memory.num_troubled += 1
        elif not (math.isnan(figures.repeated_share) and math.isnan(figures.tail_ratio)):
            memory.num_troubled = 0

    def _is_troubled(self, figures: StepFigures) -> bool:
        settings = self._settings
        is_repeating = figures.repeated_share > settings.back_repeated_share
        return is_repeating or figures.tail_ratio > settings.back_tail_ratio

    def _trend(self) -> Trend | None:
        values = self._memory.log_perplexities
        return fit_trend(values) if len(values) >= self._settings.patience else None

    def _decide(self, trend: Trend | None) -> tuple[Move, Reason]:
        """The first reason that applies."""
        memory, settings = self._memory, self._settings
        is_young = memory.num_steps < settings.min_steps
        if len(self._windows) == 1:
            return Move.HOLD, Reason.FIXED
        if memory.num_troubled:
            lasts = memory.num_troubled >= settings.back_patience
            may_leave = lasts and not is_young and self.window != self._windows[0]
            return (Move.STEP_BACK if may_leave else Move.HOLD), Reason.TROUBLED
        if self.window == self._windows[-1]:
            return Move.HOLD, Reason.LARGEST
        if is_young or trend is None or len(memory.nearness) < settings.patience:
            return Move.HOLD, Reason.YOUNG
        if memory.cool_down:
            return Move.HOLD, Reason.COOLING
        if statistics.median(memory.nearness) < settings.near:
            return Move.HOLD, Reason.SHORT
        return self._judge_perplexity(trend)

    def _judge_perplexity(self, trend: Trend) -> tuple[Move, Reason]:
        """Converged when even the ends of its confidence interval are changes that do not matter."""
        limit = math.log1p(self._settings.converged)
        if abs(trend.change) > limit:
            return Move.HOLD, Reason.MOVING
        if abs(trend.change) + SURE * trend.error > limit:
            return Move.HOLD, Reason.UNSURE
        return Move.ADVANCE, Reason.READY

    def _move(self, direction: int) -> None:
        memory = self._memory
        retreats, cool_down = dict(memory.retreats), memory.cool_down
        if direction < 0:
            num_before = retreats.get(self.window, 0)
            retreats[self.window] = num_before + 1
            cool_down = max(cool_down, self._settings.cool_down * 2**num_before)
        window = self._windows[self._windows.index(self.window) + direction]
        self._memory = Memory(window=window, cool_down=cool_down, retreats=retreats)

    def _evidence(self, figures: StepFigures, trend: Trend | None) -> dict[str, float]:
        memory, settings = self._memory, self._settings
        return {
            "window": memory.window,
            "steps_in_window": memory.num_steps,
            "perplexity": figures.perplexity,
            "perplexity_change": math.nan if trend is None else math.expm1(min(trend.change, LARGEST_CHANGE)),
            "perplexity_error": math.nan if trend is None else trend.error,
            "converged": settings.converged,
            "over_steps": settings.patience,
            "nearness": statistics.median(memory.nearness) if memory.nearness else math.nan,
            "near": settings.near,
            "repeated_share": figures.repeated_share,
            "tail_ratio": figures.tail_ratio,
            "steps_troubled": memory.num_troubled,
            "cool_down": memory.cool_down,
        }
