"""The window and the alarms of a run, joined: one observation a step, events and at most one action out.

Pure: no clock, no files, no torch. What it remembers is a JSON object in every checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from forklight_core.runfile import RunFile
from forklight_trainer.steering.collapse import CollapseWatch
from forklight_trainer.steering.events import (
    Action,
    ActionKind,
    EventKind,
    Severity,
    SteeringEvent,
    event_fields,
    read_event,
)
from forklight_trainer.steering.figures import StepFigures
from forklight_trainer.steering.recovery import Recovery
from forklight_trainer.steering.state import JsonObject, read_table, read_tables, read_text, read_whole
from forklight_trainer.steering.window import Decision, Move, WindowController
from forklight_trainer.steering.words import explain


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a step led to."""

    decision: Decision
    events: tuple[SteeringEvent, ...]
    action: Action


class Steering:
    """Asked by the loop for the window, and after each step for what is to be done."""

    def __init__(self, run_file: RunFile) -> None:
        self._length = WindowController(run_file.length, fixed_window=run_file.sampling.max_new_tokens)
        self._watch = CollapseWatch(run_file)
        self._recovery = Recovery(run_file.collapse)
        self._pending = Action()
        self._unsent: list[SteeringEvent] = []

    @property
    def window(self) -> int:
        """Tokens that a response opened now may have."""
        return self._length.window

    @property
    def ringing(self) -> Mapping[str, bool]:
        """By alarm."""
        return {alarm.detector.name: alarm.rings for alarm in self._watch.alarms}

    def observe(self, figures: StepFigures) -> Observation:
        """Take in a step that was learned, before its checkpoint is written."""
        decision = self._length.observe(figures)
        self._recovery.pass_step(figures.step)
        changes = self._watch.observe(figures)
        begun = [alarm for alarm, event in changes if event.kind is EventKind.ALERT]
        action = self._recovery.choose(begun, figures.step)
        self._pending = action if action.kind is not ActionKind.NONE else self._pending
        told = [*_window_events(decision, figures.step), *(event for _, event in changes)]
        events = tuple(_say_action(event, action) for event in told)
        self._unsent += events
        return Observation(decision=decision, events=events, action=action)

    def take_action(self) -> Action:
        """What is to be done now that the step is durable; once. A crash in between does not lose it."""
        action, self._pending = self._pending, Action()
        return action

    def take_events(self) -> list[SteeringEvent]:
        """What happened since the last call, for the commit of its steps; once more after a restore."""
        taken, self._unsent = self._unsent, []
        return taken

    def state(self) -> dict[str, object]:
        """A JSON object. A run restored from it decides as the one that wrote it would have."""
        pending = self._pending
        return {
            "length": self._length.state(),
            "collapse": self._watch.state(),
            "pending": {"kind": pending.kind.value, "step": pending.step, "reason": pending.reason},
            "unsent": [event_fields(event) for event in self._unsent],
        }

    def restore(self, state: JsonObject, *, went_back_from: Sequence[int] = ()) -> None:
        """From a checkpoint, at start or after going back; an empty object is a new beginning.

        `went_back_from` are the steps at which the run went back, oldest first.
        """
        self._length.restore(read_table(state, "length"))
        self._watch.restore(read_table(state, "collapse"))
        self._recovery.restore(went_back_from)
        self._unsent = [read_event(fields) for fields in read_tables(state, "unsent")]
        pending = read_table(state, "pending")
        self._pending = Action(
            kind=ActionKind(read_text(pending, "kind") or ActionKind.NONE),
            step=read_whole(pending, "step"),
            reason=read_text(pending, "reason"),
        )


def _window_events(decision: Decision, step: int) -> list[SteeringEvent]:
    """One when the window moves."""
    if decision.move is Move.HOLD:
        return []
    is_advance = decision.move is Move.ADVANCE
    return [
        SteeringEvent(
            kind=EventKind.WINDOW_ADVANCED if is_advance else EventKind.WINDOW_STEPPED_BACK,
            severity=Severity.INFO if is_advance else Severity.WARNING,
            step=step,
            title=explain(decision),
            source="length",
            evidence={**decision.evidence, "window_after": decision.window},
        )
    ]


def _say_action(event: SteeringEvent, action: Action) -> SteeringEvent:
    """An alert that makes the loop do something says so."""
    if event.kind is not EventKind.ALERT or event.severity is not Severity.ALERT:
        return event
    if action.kind is ActionKind.PAUSE:
        return replace(event, title=f"{event.title}. The run pauses: {action.reason}")
    return replace(event, title=f"{event.title}. The run goes back to step {action.step} or before")
