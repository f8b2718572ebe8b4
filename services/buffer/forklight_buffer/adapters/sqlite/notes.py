"""Control fields as notes of the ledger."""

from __future__ import annotations

from collections.abc import Mapping

from forklight_buffer.adapters.sqlite.database import Database
from forklight_buffer.records import Control
from forklight_buffer.states import Phase


def read_control(db: Database) -> Control:
    """How the run stands; a new ledger is running, in epoch 0, without a lineage."""
    notes = {row["name"]: row["value"] for row in db.rows("SELECT * FROM notes")}
    return Control(
        phase=Phase(int(notes.get("phase", "1"))),
        reason=notes.get("reason", ""),
        automatic=notes.get("automatic", "") == "yes",
        epoch=int(notes.get("epoch", "0")),
        lineage=notes.get("lineage", ""),
        step=int(notes.get("step", "0")),
        version=int(notes.get("version", "0")),
        window=int(notes.get("window", "0")),
    )


def write_notes(db: Database, notes: Mapping[str, str]) -> None:
    """Remember texts."""
    db.execute_many(
        "INSERT INTO notes VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
        list(notes.items()),
    )
