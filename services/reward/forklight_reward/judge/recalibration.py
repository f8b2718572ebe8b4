"""The ladder of measures against a judge that pays for length. Versioned; switched only between steps, so
that one group is never judged in two ways.

  L0 nothing   L1 an offset a doubling   L2 the length-neutral prompt   L3 references of like length, fewer
  general prompts   L4 no prompts for the judge until a person has looked
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np

from forklight_reward.judge.length_fit import Floats, Ints, LengthFit, Window, centre, fit_length
from forklight_reward.judge.length_monitor import LengthMonitor, MonitorOptions, MonitorReport
from forklight_reward.judge.prompt import Variant

MEMORY = 0.7
MOST_OFFSET = 0.25
PATIENCE = 7
"""Windows before what a level leaves is judged: the offset has learned 92 % of a bias by then."""
LOWERED_WEIGHT = 0.5


class Level(IntEnum):
    """Steps of the ladder."""

    NONE = 0
    OFFSET = 1
    PROMPT = 2
    REFERENCE = 3
    OFF = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What holds for all groups of a step."""

    version: int = 0
    level: Level = Level.NONE
    beta: float = 0.0
    """Score a doubling that is taken off again."""

    @property
    def variant(self) -> Variant:
        """Rubric and view of the judge."""
        return Variant.LENGTH_NEUTRAL if self.level >= Level.PROMPT else Variant.PLAIN

    @property
    def wants_nearest_reference(self) -> bool:
        """Whether the reference of a comparison is chosen by length."""
        return self.level >= Level.REFERENCE

    @property
    def general_weight(self) -> float:
        """Times the curriculum's weight of judged prompts."""
        if self.level is Level.OFF:
            return 0.0
        return LOWERED_WEIGHT if self.level is Level.REFERENCE else 1.0

    def correct(self, scores_N: Floats, lengths_N: Floats, groups_N: Ints) -> Floats:
        """Scores less what their length was worth, against the mean length of their group."""
        if self.level is Level.NONE:
            return scores_N
        ids, index_N = np.unique(groups_N, return_inverse=True)
        return self._less(scores_N, centre(lengths_N, index_N, len(ids)))

    def correct_pair(self, scores_N: Floats, lengths_N: Floats, references_N: Floats) -> Floats:
        """The same against the length of each sample's reference answer."""
        return scores_N if self.level is Level.NONE else self._less(scores_N, lengths_N - references_N)

    def _less(self, scores_N: Floats, excess_N: Floats) -> Floats:
        return np.asarray(
            scores_N - np.clip(self.beta * excess_N, -MOST_OFFSET, MOST_OFFSET), dtype=np.float64
        )


class Recalibrator:
    """Watches raw scores and what is left of the bias after correction; climbs while something is left."""

    def __init__(self, options: MonitorOptions | None = None) -> None:
        self.active = Calibration()
        self.raw, self.residual = LengthMonitor(options), LengthMonitor(options)
        self._options = options
        self._pending = self.active
        self._beta = 0.0
        self._num_windows = 0

    def add_window(self, window: Window) -> MonitorReport:
        """One window of raw scores. What follows from it waits for the next step."""
        fit = fit_length(window)
        raw = self.raw.add_window(fit)
        if fit is not None:
            self._learn(fit)
        self._num_windows += 1
        if self._num_windows > PATIENCE:
            corrected = self.active.correct(window.scores_N, window.lengths_N, window.groups_N)
            self.residual.add_window(fit_length(replace(window, scores_N=corrected)))
        level = self._next_level(raw)
        if level is not self._pending.level:
            self._num_windows, self.residual = 0, LengthMonitor(self._options)
        beta = self._beta if level is not Level.NONE else 0.0
        self._pending = replace(self.active, level=level, beta=beta)
        return raw

    def switch(self) -> Calibration:
        """Between two steps: what is pending holds from here on, under a new version if it differs."""
        if self._pending != self.active:
            self.active = replace(self._pending, version=self.active.version + 1)
            self._pending = self.active
        return self.active

    def allow_again(self) -> None:
        """A person has looked: from L4 back to L2 at the next step."""
        if self._pending.level is Level.OFF:
            self._pending = replace(self._pending, level=Level.PROMPT)
            self._num_windows = 0

    def _learn(self, fit: LengthFit) -> None:
        """The slope of the raw scores, remembered while there is an offset to be taken off."""
        if self.raw.is_ringing or self.active.level is not Level.NONE:
            self._beta = MEMORY * self._beta + (1 - MEMORY) * fit.beta

    def _next_level(self, raw: MonitorReport) -> Level:
        level = self._pending.level
        if level is Level.OFF:
            return level
        if level is Level.NONE:
            return Level.OFFSET if raw.should_recalibrate else level
        if self._num_windows <= PATIENCE:
            return level
        if self.residual.is_ringing:
            return Level(level + 1)
        if raw.is_clear:
            self._beta = 0.0 if level is Level.OFFSET else self._beta
            return Level(level - 1)
        return level


def nearest_reference(length: float, reference_lengths: Sequence[float]) -> int:
    """Which of several reference answers is the nearest by log2 length."""
    return min(range(len(reference_lengths)), key=lambda index: abs(reference_lengths[index] - length))
