"""What steering tells people, and what it asks the loop to do."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from forklight_trainer.steering.state import (
    JsonObject,
    read_number,
    read_table,
    read_text,
    read_whole,
)


class EventKind(StrEnum):
    """What happened."""

    WINDOW_ADVANCED = "window_advanced"
    WINDOW_STEPPED_BACK = "window_stepped_back"
    ALERT = "alert"
    ALERT_ENDED = "alert_ended"


class Severity(StrEnum):
    """How much it matters."""

    INFO = "info"
    WARNING = "warning"
    ALERT = "alert"


LEVELS = {Severity.INFO: logging.INFO, Severity.WARNING: logging.WARNING, Severity.ALERT: logging.ERROR}


class ActionKind(StrEnum):
    """What the loop has to do after the step."""

    NONE = "none"
    PAUSE = "pause"
    ROLL_BACK = "roll_back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Asked of the loop once the step is durable."""

    kind: ActionKind = ActionKind.NONE
    step: int = 0
    """Of a roll back: the newest checkpoint at or before this step."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SteeringEvent:
    """One thing that happened, with the numbers behind it."""

    kind: EventKind
    severity: Severity
    step: int
    title: str
    """A sentence: what, how much, since when, what to do."""
    source: str
    """Which alarm, or "length"."""
    evidence: Mapping[str, float] = field(default_factory=dict)

    @property
    def evidence_json(self) -> str:
        """One JSON object; NaN is null."""
        return json.dumps({"source": self.source, **finite(self.evidence)}, separators=(",", ":"))


def finite(evidence: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers as JSON can say them."""
    return {name: value if math.isfinite(value) else None for name, value in evidence.items()}


def event_fields(event: SteeringEvent) -> dict[str, object]:
    """A JSON object, for the checkpoint."""
    return {
        "kind": event.kind.value,
        "severity": event.severity.value,
        "step": event.step,
        "title": event.title,
        "source": event.source,
        "evidence": finite(event.evidence),
    }


def read_event(fields: JsonObject) -> SteeringEvent:
    """The event again."""
    evidence = read_table(fields, "evidence")
    return SteeringEvent(
        kind=EventKind(read_text(fields, "kind")),
        severity=Severity(read_text(fields, "severity")),
        step=read_whole(fields, "step"),
        title=read_text(fields, "title"),
        source=read_text(fields, "source"),
        evidence={name: read_number(evidence, name) for name in evidence},
    )
