"""Control, versions, events of the buffer itself and conflicts of the ledger."""

from __future__ import annotations

from collections.abc import Mapping

from forklight_buffer.adapters.sqlite.database import Database
from forklight_buffer.adapters.sqlite.notes import read_control, write_notes
from forklight_buffer.records import Conflict, Control, Event, Weights
from forklight_buffer.states import Phase, State


class RunTable:
    """Implements `RunLedger`."""

    _db: Database

    def control(self) -> Control:
        return read_control(self._db)

    def set_phase(self, phase: Phase, reason: str, *, automatic: bool) -> None:
        self._write({"phase": str(int(phase)), "reason": reason, "automatic": "yes" if automatic else ""})

    def announce(self, weights: Weights, at: float) -> None:
        with self._db.transaction():
            self._db.execute(
                "INSERT INTO versions (version, manifest, manifest_id, epoch, at) VALUES (?, ?, ?, ?, ?)",
                (weights.version, weights.manifest, weights.manifest_id, weights.epoch, at),
            )
            write_notes(self._db, {"version": str(weights.version)})

    def newest_weights(self) -> Weights | None:
        row = self._db.row("SELECT * FROM versions ORDER BY id DESC LIMIT 1")
        if row is None:
            return None
        return Weights(
            version=row["version"],
            manifest=row["manifest"],
            manifest_id=row["manifest_id"],
            epoch=row["epoch"],
        )

    def note(self, name: str) -> str:
        row = self._db.row("SELECT value FROM notes WHERE name = ?", (name,))
        return "" if row is None else str(row["value"])

    def set_note(self, name: str, value: str) -> None:
        self._write({name: value})

    def _write(self, notes: Mapping[str, str]) -> None:
        with self._db.transaction():
            write_notes(self._db, notes)

    def add_event(self, event: Event) -> None:
        with self._db.transaction():
            sql = "INSERT INTO events (at, kind, detail) VALUES (?, ?, ?)"
            self._db.execute(sql, (event.at, event.kind, event.detail))

    def conflicts(self) -> list[Conflict]:
        return [
            Conflict(
                at=row["at"],
                sample_id=row["sample_id"],
                kept=State(row["kept"]),
                refused=State(row["refused"]),
                detail=row["detail"],
            )
            for row in self._db.rows("SELECT * FROM conflicts ORDER BY id")
        ]
