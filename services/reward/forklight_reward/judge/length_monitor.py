"""Rings when the judge pays for length. Evidence is added up over windows of 64 groups (CUSUM), so that one
odd window is silent and a small lasting bias is not.

ALARM: the sum passes 5, or padding alone surely gains more than 0.05. RECALIBRATE: an alarm, and either
answers grew without getting better or a doubling is worth more than 0.10.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from forklight_reward.judge.length_fit import LengthFit
from forklight_reward.judge.padding import MEAN_DOUBLINGS, PaddingReport

GROUPS_A_WINDOW = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorOptions:
    """Thresholds."""

    tolerated_beta: float = 0.02
    slack: float = 0.5
    """Standard errors a window that are forgiven."""
    ring_at: float = 5.0
    clear_below: float = 1.0
    clear_after: int = 5
    """Windows in a row."""
    most_padding_gain: float = 0.05
    recalibrate_beta: float = 0.10
    drift_steps: int = 50
    most_growth: float = 0.10
    """Of the mean length over `drift_steps`..."""
    least_success_gain: float = 0.01
    """...that is all right when success rose by so much."""
    drift_memory: float = 0.9
    """Of the averages of length and success, a step."""


class Drift:
    """Whether answers grow without getting better: averages of length and success of each step."""

    def __init__(self, options: MonitorOptions) -> None:
        self._options = options
        self._history: deque[tuple[float, float]] = deque(maxlen=options.drift_steps + 1)

    @property
    def history(self) -> list[tuple[float, float]]:
        """Averages of length and success, oldest first."""
        return list(self._history)

    def restore(self, history: Iterable[tuple[float, float]]) -> None:
        """Go on from averages of before."""
        self._history.extend(history)

    def add(self, mean_length: float, success: float) -> None:
        """One step: mean tokens of judged answers, and the share that is right where a rule can say."""
        if self._history:
            keep, (length, rate) = self._options.drift_memory, self._history[-1]
            mean_length = keep * length + (1 - keep) * mean_length
            success = keep * rate + (1 - keep) * success
        self._history.append((mean_length, success))

    @property
    def is_padding(self) -> bool:
        """Longer by a tenth over 50 steps, and right less than a point more often."""
        if len(self._history) <= self._options.drift_steps:
            return False
        (old_length, old_rate), (length, rate) = self._history[0], self._history[-1]
        grew = length > (1 + self._options.most_growth) * old_length
        return grew and rate - old_rate < self._options.least_success_gain


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorReport:
    """What the monitor says after a window."""

    fit: LengthFit | None
    cusum: float
    is_alarm: bool
    should_recalibrate: bool
    is_clear: bool
    """Silent for long enough to take measures back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorState:
    """What a monitor remembers, but for the drift."""

    cusum: float = 0.0
    is_alarm: bool = False
    num_quiet: int = 0
    gains: bool = False
    """Padding alone surely gains too much..."""
    gains_much: bool = False
    """...and so much a doubling that the judge is to be recalibrated."""


class LengthMonitor:
    """The state over windows. A window without a fit (too few groups that tell) changes nothing."""

    def __init__(self, options: MonitorOptions | None = None, state: MonitorState | None = None) -> None:
        state = state or MonitorState()
        self.options = options or MonitorOptions()
        self.drift = Drift(self.options)
        self._cusum = state.cusum
        self._is_alarm = state.is_alarm
        self._num_quiet = state.num_quiet
        self._gains, self._gains_much = state.gains, state.gains_much

    @property
    def state(self) -> MonitorState:
        """To go on from after a restart."""
        return MonitorState(
            cusum=self._cusum,
            is_alarm=self._is_alarm,
            num_quiet=self._num_quiet,
            gains=self._gains,
            gains_much=self._gains_much,
        )

    @property
    def is_ringing(self) -> bool:
        """Whether the alarm is on."""
        return self._is_alarm

    def add_window(self, fit: LengthFit | None) -> MonitorReport:
        """One window of 64 groups."""
        if fit is not None:
            options = self.options
            surprise = (fit.beta - options.tolerated_beta) / fit.error - options.slack
            # Bounded: what rang long and loud could not be cleared otherwise.
            self._cusum = min(max(0.0, self._cusum + surprise), 2 * options.ring_at)
            self._num_quiet = self._num_quiet + 1 if self._cusum < options.clear_below else 0
        return self._report(fit)

    def add_padding(self, padding: PaddingReport) -> MonitorReport:
        """A padding probe; the newest counts."""
        self._gains = padding.lower95 > self.options.most_padding_gain
        self._gains_much = padding.lower95 > self.options.recalibrate_beta * MEAN_DOUBLINGS
        return self._report(None)

    def _report(self, fit: LengthFit | None) -> MonitorReport:
        options = self.options
        is_quiet = self._num_quiet >= options.clear_after and not self._gains
        if self._cusum > options.ring_at or self._gains:
            self._is_alarm = True
        elif is_quiet:
            self._is_alarm = False
        is_steep = self._gains_much or (fit is not None and fit.beta > options.recalibrate_beta)
        return MonitorReport(
            fit=fit,
            cusum=self._cusum,
            is_alarm=self._is_alarm,
            should_recalibrate=self._is_alarm and (is_steep or self.drift.is_padding),
            is_clear=is_quiet,
        )
