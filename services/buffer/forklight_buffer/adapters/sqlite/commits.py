"""Batches, commits and lineages of the ledger, and the one way back: a rewind, which is recorded."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence

from forklight_buffer.adapters.sqlite.database import Database
from forklight_buffer.adapters.sqlite.evidence import enter_evidence
from forklight_buffer.adapters.sqlite.groups import leased_group
from forklight_buffer.adapters.sqlite.lineages import (
    Segment,
    ancestry,
    owner_of,
    read_lineages,
    shared_steps,
)
from forklight_buffer.adapters.sqlite.notes import read_control, write_notes
from forklight_buffer.adapters.sqlite.samples import (
    close_groups,
    find_conflict,
    insert_sample,
    record_conflicts,
    sample_row,
)
from forklight_buffer.ledger import Rewind
from forklight_buffer.records import Commit, Conflict, LeasedGroup, Lineage, SampleRow
from forklight_core.errors import PreconditionError


class CommitTable:
    """Implements `CommitLedger`, but for the rewind itself."""

    _db: Database

    def journal_batch(self, groups: Sequence[LeasedGroup]) -> None:
        with self._db.transaction():
            self._db.execute_many(
                "INSERT INTO leased_groups (group_id, step, position, "
                "policy_version, body) VALUES (?, ?, ?, ?, ?) "
                # The first body stays: later ones may lack samples that were lost meanwhile.
                "ON CONFLICT (group_id) DO UPDATE SET step = excluded.step, position = excluded.position, "
                "policy_version = excluded.policy_version",
                [
                    (each.group_id, each.step, each.position, each.policy_version, each.body)
                    for each in groups
                ],
            )

    def leased_groups(self, step: int) -> list[LeasedGroup]:
        rows = self._db.rows(
            "SELECT * FROM leased_groups WHERE step = ? ORDER BY position, group_id", (step,)
        )
        return [leased_group(row) for row in rows]

    def leased_group(self, group_id: str) -> LeasedGroup | None:
        row = self._db.row("SELECT * FROM leased_groups WHERE group_id = ?", (group_id,))
        return None if row is None else leased_group(row)

    def enter_commit(
        self, commit: Commit, trained: Sequence[SampleRow], left_out: Sequence[SampleRow], at: float
    ) -> None:
        with self._db.transaction():
            refused = [conflict for row in trained for conflict in find_conflict(self._db, row)]
            if not refused:
                self._write_commit(commit, [*trained, *left_out], at)
            record_conflicts(self._db, refused)
        if refused:
            _refuse(commit, refused)

    def _write_commit(self, commit: Commit, rows: Sequence[SampleRow], at: float) -> None:
        for row in rows:
            insert_sample(self._db, row)
        closed = close_groups(self._db, {row.group_id for row in rows})
        write_commit(self._db, commit, at)
        write_notes(self._db, {"step": str(commit.step)})
        enter_evidence(self._db, closed)

    def read_commit(self, lineage: str, step: int) -> Commit | None:
        owner = owner_of(ancestry(self.lineages(), lineage, self.head(lineage)), step)
        row = self._db.row("SELECT * FROM commits WHERE lineage = ? AND step = ?", (owner, step))
        return None if row is None else _commit(row)

    def commits(self) -> list[Commit]:
        return [_commit(row) for row in self._db.rows("SELECT * FROM commits ORDER BY lineage, step")]

    def lineages(self) -> dict[str, Lineage]:
        return read_lineages(self._db)

    def head(self, lineage: str) -> int:
        return self._db.number(
            "SELECT max(forked_at, coalesce((SELECT max(step) FROM commits c WHERE "
            "c.lineage = l.lineage), 0)) FROM lineages l WHERE lineage = ?",
            (lineage,),
        )

    def prune_batches(self, *, before_step: int) -> None:
        with self._db.transaction():
            self._db.execute(
                "DELETE FROM leased_groups WHERE step >= 0 AND step < ? "
                "AND group_id IN (SELECT group_id FROM groups WHERE closed = 1)",
                (before_step,),
            )

    def plan_rewind(self, lineage: str, step: int, carried: Sequence[Commit]) -> Rewind:
        control, known = read_control(self._db), self.lineages()
        for commit in carried:
            _check_same(commit, self._db)
        missing = _missing_records(lineage, self.head(lineage), step, carried)
        now = ancestry(known, control.lineage, control.step)
        wanted = ancestry(known, lineage, step)
        shared = shared_steps(now, wanted)
        adopted = (*self._commits_of(wanted, shared), *missing)
        kept = {sample for commit in adopted for sample in commit.sample_ids}
        return Rewind(
            lineage=lineage,
            step=step,
            is_fork=lineage != control.lineage or step < control.step,
            reverted=tuple(row for row in self._trained_after(now, shared) if row.sample_id not in kept),
            adopted=adopted,
            new_commits=missing,
        )

    def _commits_of(self, segments: Iterable[Segment], after: int) -> Iterable[Commit]:
        for part in segments:
            yield from map(
                _commit,
                self._db.rows(
                    "SELECT * FROM commits WHERE lineage = ? AND step > ? AND step <= ? ORDER BY step",
                    (part.lineage, max(part.low, after), part.high),
                ),
            )

    def _trained_after(self, segments: Iterable[Segment], after: int) -> Iterable[SampleRow]:
        for part in segments:
            yield from map(
                sample_row,
                self._db.rows(
                    "SELECT * FROM samples WHERE state = 10 AND lineage = ? AND "
                    "step > ? ORDER BY step, sample_id",
                    (part.lineage, max(part.low, after)),
                ),
            )


def write_commit(db: Database, commit: Commit, at: float) -> None:
    """Enter the record of a step; the same record twice is one."""
    db.execute(
        "INSERT INTO commits (lineage, step, batch_id, sample_ids, at) "
        "VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (commit.lineage, commit.step, commit.batch_id, json.dumps(commit.sample_ids), at),
    )


def _missing_records(lineage: str, head: int, step: int, carried: Sequence[Commit]) -> tuple[Commit, ...]:
    """Records that bring a lineage from its head to a step, without a gap."""
    found = {commit.step: commit for commit in carried if commit.lineage == lineage}
    for wanted in range(head + 1, step + 1):
        if wanted not in found:
            raise PreconditionError(
                f"the checkpoint has learned step {step} of lineage {lineage!r}, but step "
                f"{wanted} is neither in the ledger nor among the {len(carried)} records of "
                "the checkpoint: restore an older checkpoint"
            )
    return tuple(found[wanted] for wanted in range(head + 1, step + 1))


def _check_same(carried: Commit, db: Database) -> None:
    """Two checkpoints of one name: the ledger stands by the one that was committed."""
    sql = "SELECT * FROM commits WHERE lineage = ? AND step = ?"
    row = db.row(sql, (carried.lineage, carried.step))
    if row is not None and set(_commit(row).sample_ids) != set(carried.sample_ids):
        raise PreconditionError(
            f"the checkpoint has learned other samples at step {carried.step} of lineage "
            f"{carried.lineage} than the ledger: another checkpoint of that step was committed "
            "since; restore that one, or one of an earlier step"
        )


def _refuse(commit: Commit, refused: Sequence[Conflict]) -> None:
    named = ", ".join(f"{item.sample_id} is {item.kept.name.lower()}" for item in refused[:3])
    raise PreconditionError(
        f"step {commit.step} cannot be committed: {len(refused)} of its samples ended before ({named}). "
        "A terminal state is final. Restore the checkpoint of the step before."
    )


def _commit(row: sqlite3.Row) -> Commit:
    return Commit(
        lineage=row["lineage"],
        step=row["step"],
        batch_id=row["batch_id"],
        sample_ids=tuple(json.loads(row["sample_ids"])),
    )
