"""Steering's events as the buffer journals them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from forklight.v1 import types_pb2
from forklight_trainer.steering.events import Severity, SteeringEvent

if TYPE_CHECKING:  # its room writes files, with torch
    from forklight_trainer.checkpoints.roll_backs import RollBack

SEVERITIES = {
    Severity.INFO: types_pb2.SEVERITY_INFO,
    Severity.WARNING: types_pb2.SEVERITY_WARNING,
    Severity.ALERT: types_pb2.SEVERITY_ALERT,
}


def run_events(
    events: Sequence[SteeringEvent], *, lineage: str, updates_per_version: int, at: float
) -> list[types_pb2.RunEvent]:
    """An event keeps its id when it is said again; done again in another lineage, it is another one."""
    return [
        types_pb2.RunEvent(
            id=f"{lineage}/{event.step}/{event.source}/{event.kind.value}",
            kind=event.kind.value,
            severity=SEVERITIES[event.severity],
            step=event.step,
            version=event.step // updates_per_version,
            at=at,
            title=event.title,
            evidence_json=event.evidence_json,
        )
        for event in events
    ]


def roll_back_event(done: RollBack, *, updates_per_version: int) -> types_pb2.RunEvent:
    """That the run went back; it stands with the step it went back to."""
    way = f"from step {done.from_step} to step {done.to_step}"
    asked = ", as a person asked" if done.asked_by == "person" else ""
    return types_pb2.RunEvent(
        id=f"rolled_back/{done.from_step}/{done.at}",
        kind="rolled_back",
        severity=types_pb2.SEVERITY_WARNING,
        step=done.to_step,
        version=done.to_step // updates_per_version,
        at=done.at,
        title=f"went back {way}{asked}: {done.reason}",
        evidence_json=json.dumps(
            {"from_step": done.from_step, "to_step": done.to_step, "asked_by": done.asked_by}
        ),
    )
