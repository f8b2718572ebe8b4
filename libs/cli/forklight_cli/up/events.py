"""What was reported about the run while somebody looks at it: each event once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forklight.v1 import buffer_pb2, types_pb2


class EventWatch:
    """Remembers which events were shown. What stood when it began to look is old news."""

    def __init__(self) -> None:
        self._shown: set[tuple[str, float, bool]] | None = None

    def find_new(self, status: buffer_pb2.GetStatusReply) -> list[str]:
        """New events in words, oldest first; an event that was undone is new once more."""
        found = {(event.id, event.at, event.undone): event for event in status.events}
        before, self._shown = self._shown, set(found)
        if before is None:
            return []
        return [describe_event(event) for key, event in found.items() if key not in before]


def describe_event(event: types_pb2.RunEvent) -> str:
    """One line: when, how bad, where, what."""
    from forklight.v1 import types_pb2

    severity = types_pb2.Severity.Name(event.severity).removeprefix("SEVERITY_").lower()
    at = time.strftime("%H:%M:%S", time.localtime(event.at))
    undone = "undone: " if event.undone else ""
    return f"{at} {severity} at step {event.step}, {event.kind}: {undone}{event.title}"
