"""Feeds a tracker from steps.jsonl, from where the last feed of this run ended."""

from __future__ import annotations

import json
from pathlib import Path

from forklight_cli.run_folder import write_atomically
from forklight_cli.trackers.choose import Tracker
from forklight_console.steps.log import StepLog
from forklight_console.steps.table import numbers_of

ALL = 1 << 40


class Feed:
    """`place` remembers the last step that was taken. A step that was given up and redone is sent again."""

    def __init__(self, steps: Path, place: Path, tracker: Tracker) -> None:
        self._log = StepLog(steps)
        self._place = place
        self._tracker = tracker
        self.last_step = read_place(place)

    def send(self) -> int:
        """Send what is new; returns how many steps."""
        newest = self._log.look(lambda table: table.steps[-1] if len(table) else 0)
        self.last_step = min(self.last_step, newest)
        records = self._log.records(after=self.last_step, limit=ALL)
        for record in records:
            numbers = dict(numbers_of(record))
            step, at = int(numbers.pop("step")), numbers.pop("time", 0.0)
            self._tracker.log(step, at, numbers)
            self.last_step = step
        if records:
            write_atomically(self._place, json.dumps({"step": self.last_step}) + "\n")
        return len(records)


def read_place(path: Path) -> int:
    """The last step sent; 0 before the first, and when the note cannot be read."""
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
