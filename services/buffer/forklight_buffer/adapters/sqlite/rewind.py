"""Restoring a checkpoint in one transaction: what is given up opens again, what it has learned is trained."""

from __future__ import annotations

from collections.abc import Sequence

from forklight_buffer.adapters.sqlite.commits import write_commit
from forklight_buffer.adapters.sqlite.database import Database
from forklight_buffer.adapters.sqlite.evidence import enter_evidence
from forklight_buffer.adapters.sqlite.notes import read_control, write_notes
from forklight_buffer.adapters.sqlite.samples import close_groups, insert_sample
from forklight_buffer.ledger import Rewind
from forklight_buffer.records import SampleRow

OPEN_AGAIN = "open"


class RewindTable:
    """Implements the rewind of `CommitLedger`."""

    _db: Database

    def apply_rewind(
        self, rewind: Rewind, rows: Sequence[SampleRow], *, epoch: int, version: int, window: int, at: float
    ) -> str:
        with self._db.transaction():
            for commit in rewind.new_commits:
                write_commit(self._db, commit, at)
            ending = {row.sample_id for row in rows}
            for row in rewind.reverted:
                if row.sample_id not in ending:
                    self._take_back(row, OPEN_AGAIN, epoch, at)
            for row in rows:
                self._end_anew(row, epoch, at)
            closed = close_groups(self._db, {row.group_id for row in (*rewind.reverted, *rows)})
            self._place_groups(rewind, rows)
            lineage = self._fork(rewind, at)
            notes = {"epoch": epoch, "step": rewind.step, "version": version, "window": window}
            write_notes(self._db, {"lineage": lineage} | {name: str(note) for name, note in notes.items()})
            enter_evidence(self._db, closed)
        return lineage

    def _take_back(self, row: SampleRow, became: str, epoch: int, at: float) -> None:
        """Remove a terminal state, leaving a trace of it."""
        self._db.execute(
            "INSERT INTO rollbacks (at, epoch, sample_id, from_state, from_lineage, from_step, became) "
            "SELECT ?, ?, sample_id, state, lineage, step, ? FROM samples WHERE sample_id = ?",
            (at, epoch, became, row.sample_id),
        )
        self._db.execute("DELETE FROM samples WHERE sample_id = ?", (row.sample_id,))
        self._db.execute("UPDATE groups SET closed = 0 WHERE group_id = ?", (row.group_id,))

    def _end_anew(self, row: SampleRow, epoch: int, at: float) -> None:
        found = self._db.row("SELECT state, lineage, step FROM samples WHERE sample_id = ?", (row.sample_id,))
        if found is not None and tuple(found) == (int(row.state), row.lineage, row.step):
            return
        self._take_back(row, row.state.name.lower(), epoch, at)
        insert_sample(self._db, row)

    def _place_groups(self, rewind: Rewind, rows: Sequence[SampleRow]) -> None:
        """Batches after the restored step stay as they were; groups of earlier ones that open again are
        ready.
        """
        for row in rows:
            if row.lineage:
                self._db.execute(
                    "UPDATE leased_groups SET step = ? WHERE group_id = ?", (row.step, row.group_id)
                )
        self._db.execute(
            "UPDATE leased_groups SET step = -1 WHERE step BETWEEN 0 AND ? "
            "AND group_id IN (SELECT group_id FROM groups WHERE closed = 0)",
            (rewind.step,),
        )

    def _fork(self, rewind: Rewind, at: float) -> str:
        """The lineage to go on with: the same, an empty fork of the same place, or a new one."""
        current, place = read_control(self._db).lineage, (rewind.lineage, rewind.step)
        found = self._db.row("SELECT * FROM lineages WHERE lineage = ?", (current,))
        if found is not None and not rewind.is_fork:
            return current
        unused = not self._db.number("SELECT count(*) FROM commits WHERE lineage = ?", (current,))
        if found is not None and unused and (found["parent"], found["forked_at"]) == place:
            return current
        number = self._db.number("SELECT count(*) FROM lineages") + 1
        lineage = f"l{number:04d}"
        self._db.execute(
            "INSERT INTO lineages (lineage, parent, forked_at, at) VALUES (?, ?, ?, ?)",
            (lineage, rewind.lineage, rewind.step, at),
        )
        return lineage
