"""Events that were reported to the ledger. Whether one stands follows from the line of checkpoints the run is
on, so that it is right after every rewind, also of one back onto a line given up before.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace

from forklight_buffer.adapters.sqlite.database import Database
from forklight_buffer.adapters.sqlite.lineages import Segment, line_of, owner_of
from forklight_buffer.adapters.sqlite.notes import read_control, write_notes
from forklight_buffer.records import ReportedEvent


class ReportTable:
    """Implements `ReportLedger`."""

    _db: Database

    def steer(self, window: int, events: Sequence[ReportedEvent]) -> list[ReportedEvent]:
        with self._db.transaction():
            write_notes(self._db, {"window": str(window)})
            return self.report_events(events)

    def report_events(self, events: Sequence[ReportedEvent]) -> list[ReportedEvent]:
        with self._db.transaction():
            control, line = read_control(self._db), self._line()
            entered = []
            for event in events:
                if not self._stands(event.event_id, line):
                    entered.append(replace(event, step=min(event.step, control.step)))
                    self._enter(entered[-1], line)
        return entered

    def _enter(self, event: ReportedEvent, line: list[Segment]) -> None:
        self._db.execute(
            "INSERT INTO reported_events (event_id, lineage, step, body) VALUES (?, ?, ?, ?)",
            (event.event_id, owner_of(line, event.step), event.step, event.body),
        )

    def _stands(self, event_id: str, line: list[Segment]) -> bool:
        rows = self._db.rows("SELECT lineage, step FROM reported_events WHERE event_id = ?", (event_id,))
        return any(not _is_undone(row, line) for row in rows)

    def reported_events(self, *, after: int, limit: int, newest_first: bool) -> list[ReportedEvent]:
        condition = "number < ? OR ? = 0" if newest_first else "number > ? OR ? = 0"
        order = "DESC" if newest_first else "ASC"
        with self._db.transaction():
            rows = self._db.rows(
                f"SELECT * FROM reported_events WHERE {condition} ORDER BY number {order} LIMIT ?",
                (after, after, limit),
            )
            line = self._line()
        return [
            ReportedEvent(
                event_id=row["event_id"],
                step=row["step"],
                body=row["body"],
                number=row["number"],
                undone=_is_undone(row, line),
            )
            for row in rows
        ]

    def _line(self) -> list[Segment]:
        """What the run's newest checkpoint has behind it."""
        return line_of(self._db, read_control(self._db))


def _is_undone(row: sqlite3.Row, line: list[Segment]) -> bool:
    lineage, step = str(row["lineage"]), int(row["step"])
    return step > 0 and owner_of(line, step) != lineage
