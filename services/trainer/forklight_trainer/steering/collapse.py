"""Counts the steps that a detector's limit is passed, rings, and ends the alert when the run is well again.

An alarm rings after `patience` steps in a row over the limit (pressure above 1) and ends after as many well
inside it (below CALM): between the two nothing changes, so an alert never flickers. Steps over the limit stay
out of the running median: a collapse does not become usual by lasting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from forklight_core.runfile import RunFile
from forklight_trainer.steering.baseline import Usual, find_usual
from forklight_trainer.steering.detectors import Detector, Reading, build_detectors
from forklight_trainer.steering.events import EventKind, Severity, SteeringEvent
from forklight_trainer.steering.figures import StepFigures
from forklight_trainer.steering.state import JsonObject, read_numbers, read_table, read_whole

CALM = 0.8


@dataclass(slots=True, kw_only=True)
class Memory:
    """What an alarm remembers."""

    values: list[float] = field(default_factory=list)
    """Of its figure, the last `history` that were not over the limit."""
    num_over: int = 0
    """Steps in a row."""
    num_calm: int = 0
    since: int = 0
    """First step over the limit of the present row, or of the alert."""
    rings: bool = False


class Alarm:
    """One detector with its memory."""

    def __init__(self, detector: Detector, *, history: int) -> None:
        self.detector = detector
        self._history = history
        self._memory = Memory()

    @property
    def rings(self) -> bool:
        """Whether there is an alert."""
        return self._memory.rings

    @property
    def since(self) -> int:
        """Step that the trouble began with."""
        return self._memory.since

    def observe(self, figures: StepFigures) -> SteeringEvent | None:
        """Take in a step; an event when the alert begins or ends."""
        usual = find_usual(self._memory.values)
        reading = self.detector.read(figures, usual)
        self._count(figures.step, reading.pressure)
        self._remember(self.detector.figure(figures), reading.pressure)
        memory, patience = self._memory, self.detector.settings.patience
        if not memory.rings and memory.num_over >= patience:
            memory.rings = True
            return self._alert(figures.step, reading, usual)
        if memory.rings and memory.num_calm >= patience:
            memory.rings = False
            return self._all_clear(figures.step, reading, usual)
        return None

    def state(self) -> dict[str, object]:
        memory = self._memory
        return {
            "values": list(memory.values),
            "num_over": memory.num_over,
            "num_calm": memory.num_calm,
            "since": memory.since,
            "rings": int(memory.rings),
        }

    def restore(self, state: JsonObject) -> None:
        self._memory = Memory(
            values=read_numbers(state, "values")[-self._history :],
            num_over=read_whole(state, "num_over"),
            num_calm=read_whole(state, "num_calm"),
            since=read_whole(state, "since"),
            rings=bool(read_whole(state, "rings")),
        )

    def _count(self, step: int, pressure: float) -> None:
        """A step that measured nothing leaves all as it was."""
        memory = self._memory
        if math.isnan(pressure):
            return
        is_over, is_calm = pressure > 1, pressure < CALM
        if is_over and not memory.num_over and not memory.rings:
            memory.since = step
        memory.num_over = memory.num_over + 1 if is_over else 0
        memory.num_calm = memory.num_calm + 1 if is_calm else 0

    def _remember(self, value: float, pressure: float) -> None:
        if math.isfinite(value) and not pressure > 1:
            self._memory.values = [*self._memory.values, value][-self._history :]

    def _alert(self, step: int, reading: Reading, usual: Usual) -> SteeringEvent:
        detector, memory = self.detector, self._memory
        is_warning = detector.settings.action == "warn"
        return SteeringEvent(
            kind=EventKind.ALERT,
            severity=Severity.WARNING if is_warning else Severity.ALERT,
            step=step,
            title=(
                f"{detector.noun} is {reading.value:.4g}, past its limit of {reading.limit:.4g}, in "
                f"{memory.num_over} steps since step {memory.since}: {detector.advice}"
            ),
            source=detector.name,
            evidence=self._evidence(reading, usual),
        )

    def _all_clear(self, step: int, reading: Reading, usual: Usual) -> SteeringEvent:
        detector, memory = self.detector, self._memory
        return SteeringEvent(
            kind=EventKind.ALERT_ENDED,
            severity=Severity.INFO,
            step=step,
            title=(
                f"{detector.noun} is {reading.value:.4g}, well inside its limit of {reading.limit:.4g} for "
                f"{memory.num_calm} steps; the alert was on since step {memory.since}"
            ),
            source=detector.name,
            evidence=self._evidence(reading, usual),
        )

    def _evidence(self, reading: Reading, usual: Usual) -> dict[str, float]:
        return {
            "value": reading.value,
            "limit": reading.limit,
            "pressure": reading.pressure,
            "median": usual.median,
            "spread": usual.spread,
            "since": self._memory.since,
            "patience": self.detector.settings.patience,
        }


class CollapseWatch:
    """All alarms that are not off."""

    def __init__(self, run_file: RunFile) -> None:
        history = run_file.collapse.history
        self.alarms: Sequence[Alarm] = [
            Alarm(detector, history=history) for detector in build_detectors(run_file)
        ]

    def observe(self, figures: StepFigures) -> list[tuple[Alarm, SteeringEvent]]:
        """Take in a step: the alerts that begin or end with it."""
        found = ((alarm, alarm.observe(figures)) for alarm in self.alarms)
        return [(alarm, event) for alarm, event in found if event is not None]

    def state(self) -> dict[str, object]:
        return {alarm.detector.name: alarm.state() for alarm in self.alarms}

    def restore(self, state: JsonObject) -> None:
        """Alarms that the checkpoint does not know begin anew."""
        for alarm in self.alarms:
            alarm.restore(read_table(state, alarm.detector.name))
