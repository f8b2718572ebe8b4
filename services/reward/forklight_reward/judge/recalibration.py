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
from forklight_reward.judge.length_monitor import LengthMonitor, MonitorOptions, MonitorReport, MonitorState
from forklight_reward.judge.padding import MEAN_DOUBLINGS, PaddingReport
from forklight_reward.judge.prompt import Variant

MEMORY = 0.7
MOST_OFFSET = 0.25
MOST_SHIFT = 0.5
"""Of a score whose group's mean length nobody knows yet: part of it is the same for the whole group."""
BETA_STEP = 0.002
"""A smaller change is no new calibration."""
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
    anchor: float = 0.0
    """log2 of the length from which it is counted where there is no reference answer of a length."""

    @property
    def name(self) -> str:
        """For verdicts."""
        return f"calibration/{self.version} L{self.level.value} {self.beta:.4f} a doubling"

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

    def offset(self, length: float, reference_length: float | None = None) -> float:
        """What is taken off the score of one answer by its log2 length, as soon as it is there. Against a
        reference answer, or against the anchor: advantages are centred in the group, and so what all samples
        of a group have in common falls out.
        """
        if self.level is Level.NONE:
            return 0.0
        if reference_length is not None:
            return _clip(self.beta * (length - reference_length), MOST_OFFSET)
        return _clip(self.beta * (length - self.anchor), MOST_SHIFT)

    def correct(self, scores_N: Floats, lengths_N: Floats, groups_N: Ints) -> Floats:
        """Scores less what their length was worth, against the mean length of their group."""
        if self.level is Level.NONE:
            return scores_N
        ids, index_N = np.unique(groups_N, return_inverse=True)
        excess_N = centre(lengths_N, index_N, len(ids))
        return np.asarray(
            scores_N - np.clip(self.beta * excess_N, -MOST_OFFSET, MOST_OFFSET), dtype=np.float64
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderState:
    """What a recalibrator remembers."""

    active: Calibration
    pending: Calibration
    beta: float
    anchor: float | None
    num_windows: int
    raw: MonitorState
    residual: MonitorState
    drift: tuple[tuple[float, float], ...]


class Recalibrator:
    """Watches raw scores and what is left of the bias after correction; climbs while something is left."""

    def __init__(self, options: MonitorOptions | None = None) -> None:
        self.active = Calibration()
        self.raw, self.residual = LengthMonitor(options), LengthMonitor(options)
        self.residual_fit: LengthFit | None = None
        self._options = options
        self._pending = self.active
        self._beta = 0.0
        self._anchor: float | None = None
        self._num_windows = 0
        self._last_fit: LengthFit | None = None

    @property
    def proposal(self) -> Calibration:
        """What should hold from the next step on; its version is that of the active one until it does."""
        return self._pending

    @property
    def state(self) -> LadderState:
        """To go on from after a restart."""
        return LadderState(
            active=self.active,
            pending=self._pending,
            beta=self._beta,
            anchor=self._anchor,
            num_windows=self._num_windows,
            raw=self.raw.state,
            residual=self.residual.state,
            drift=tuple(self.raw.drift.history),
        )

    @classmethod
    def resume(cls, state: LadderState, options: MonitorOptions | None = None) -> Recalibrator:
        """Where another process was."""
        made = cls(options)
        made.active, made._pending = state.active, state.pending
        made._beta, made._anchor, made._num_windows = state.beta, state.anchor, state.num_windows
        made.raw, made.residual = LengthMonitor(options, state.raw), LengthMonitor(options, state.residual)
        made.raw.drift.restore(state.drift)
        return made

    def add_window(self, window: Window, served_N: Floats | None = None) -> MonitorReport:
        """One window of raw scores, and the same as they were given out, NaN where not under the active
        calibration; without them they are computed. What follows from it waits for the next step.
        """
        fit = self._last_fit = fit_length(window)
        raw = self.raw.add_window(fit)
        if fit is not None:
            self._learn(fit.beta, float(window.lengths_N.mean()))
        if self._pending.level is self.active.level:
            self._num_windows += 1
        if served_N is None:
            served_N = self.active.correct(window.scores_N, window.lengths_N, window.groups_N)
        self.residual_fit = _fit_known(window, served_N)
        if self._num_windows > PATIENCE:
            self.residual.add_window(self.residual_fit)
        self._propose(self._next_level(raw))
        return raw

    def add_padding(self, raw: PaddingReport, served: PaddingReport) -> MonitorReport:
        """What padding gains before and after correction. Where no window tells a slope, it is the slope."""
        report = self.raw.add_padding(raw)
        if self._last_fit is None:
            self._learn(raw.gain / MEAN_DOUBLINGS, self._anchor)
            if self._pending.level is self.active.level:
                self._num_windows += 1
        if self._num_windows > PATIENCE:
            self.residual.add_padding(served)
        self._propose(self._next_level(report))
        return report

    def adopt(self, calibration: Calibration) -> None:
        """From now on groups are judged like this."""
        if calibration.version != self.active.version:
            self.active = calibration
            self._pending = replace(self._pending, version=calibration.version)

    def switch(self) -> Calibration:
        """Between two steps: what is pending holds from here on, under a new version if it differs."""
        if self._pending != self.active:
            self.adopt(replace(self._pending, version=self.active.version + 1))
        return self.active

    def allow_again(self) -> None:
        """A person has looked: from L4 back to L2 at the next step."""
        if self._pending.level is Level.OFF:
            self._pending = replace(self._pending, level=Level.PROMPT)
            self._num_windows, self.residual = 0, LengthMonitor(self._options)

    def _learn(self, slope: float, mean_length: float | None) -> None:
        """The slope of the raw scores, remembered while there is an offset to be taken off."""
        if mean_length is not None:
            old = mean_length if self._anchor is None else self._anchor
            self._anchor = MEMORY * old + (1 - MEMORY) * mean_length
        if self.raw.is_ringing or self.active.level is not Level.NONE:
            self._beta = MEMORY * self._beta + (1 - MEMORY) * slope

    def _propose(self, level: Level) -> None:
        if level is not self._pending.level:
            self._num_windows, self.residual = 0, LengthMonitor(self._options)
        beta = self._beta if level is not Level.NONE else 0.0
        if level is not self.active.level or abs(beta - self.active.beta) >= BETA_STEP:
            self._pending = replace(self.active, level=level, beta=beta, anchor=self._anchor or 0.0)
        else:
            self._pending = self.active

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


def _clip(value: float, most: float) -> float:
    return max(-most, min(most, value))


def _fit_known(window: Window, scores_N: Floats) -> LengthFit | None:
    """The slope over samples with a score."""
    known_N = ~np.isnan(scores_N)
    return fit_length(
        Window(
            scores_N=scores_N[known_N],
            lengths_N=window.lengths_N[known_N],
            correct_N=window.correct_N[known_N],
            groups_N=window.groups_N[known_N],
        )
    )


def nearest_reference(length: float, reference_lengths: Sequence[float]) -> int:
    """Which of several reference answers is the nearest by log2 length."""
    return min(range(len(reference_lengths)), key=lambda index: abs(reference_lengths[index] - length))
