"""Groups of the ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from forklight_buffer.adapters.sqlite.database import Database
from forklight_buffer.records import Ending, GroupRow, LeasedGroup, OpenGroup
from forklight_buffer.states import Purpose, State
from forklight_core import ids

INSERT = """INSERT INTO groups
(group_id, purpose, idx, position, prompt_id, kind, size, window, opened_version, opened_at, redrive_of)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""


class GroupTable:
    """Implements `GroupLedger`."""

    _db: Database

    def journal_groups(self, rows: Sequence[GroupRow]) -> None:
        with self._db.transaction():
            self._db.execute_many(
                INSERT,
                [
                    (
                        row.group_id, int(row.purpose), row.index, row.position, row.prompt_id, row.kind,
                        row.size, row.window, row.opened_version, row.opened_at, row.redrive_of or None,
                    )
                    for row in rows
                ],
            )  # fmt: skip

    def read_group(self, group_id: str) -> GroupRow | None:
        found = self._db.row("SELECT * FROM groups WHERE group_id = ?", (group_id,))
        return None if found is None else read_group_row(found)

    def open_groups(self) -> list[OpenGroup]:
        groups = self._db.rows("SELECT * FROM groups WHERE closed = 0 ORDER BY opened_at, group_id")
        endings: dict[str, dict[int, Ending]] = {}
        for row in self._db.rows(
            "SELECT sample_id, group_id, state, reason FROM samples "
            "WHERE group_id IN (SELECT group_id FROM groups WHERE closed = 0)"
        ):
            index = ids.sample_index(row["sample_id"])
            ending = Ending(index=index, state=State(row["state"]), reason=row["reason"])
            endings.setdefault(row["group_id"], {})[index] = ending
        leased = {
            row["group_id"]: leased_group(row)
            for row in self._db.rows(
                "SELECT * FROM leased_groups WHERE group_id IN (SELECT group_id FROM groups WHERE closed = 0)"
            )
        }
        return [
            OpenGroup(
                row=read_group_row(row),
                endings=endings.get(row["group_id"], {}),
                leased=leased.get(row["group_id"]),
            )
            for row in groups
        ]

    def next_index(self) -> int:
        return self._db.number("SELECT max(idx) + 1 FROM groups WHERE purpose = 1")

    def next_position(self) -> int:
        return self._db.number(
            "SELECT max(position) + 1 FROM groups WHERE purpose = 1 AND redrive_of IS NULL"
        )

    def redriven(self, group_ids: Sequence[str]) -> set[str]:
        marks = ",".join("?" * len(group_ids))
        rows = self._db.rows(f"SELECT redrive_of FROM groups WHERE redrive_of IN ({marks})", group_ids)
        return {row["redrive_of"] for row in rows}


def read_group_row(row: sqlite3.Row) -> GroupRow:
    """A row of groups."""
    return GroupRow(
        group_id=row["group_id"],
        purpose=Purpose(row["purpose"]),
        index=row["idx"],
        position=row["position"],
        prompt_id=row["prompt_id"],
        kind=row["kind"],
        size=row["size"],
        window=row["window"],
        opened_version=row["opened_version"],
        opened_at=row["opened_at"],
        redrive_of=row["redrive_of"] or "",
    )


def leased_group(row: sqlite3.Row) -> LeasedGroup:
    """A row of leased_groups."""
    return LeasedGroup(
        group_id=row["group_id"],
        step=row["step"],
        position=row["position"],
        policy_version=row["policy_version"],
        body=row["body"],
    )
