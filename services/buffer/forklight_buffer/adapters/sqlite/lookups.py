"""What people look up in the ledger, read only: nothing on the path of a sample asks these."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from forklight_buffer.adapters.sqlite.database import Database
from forklight_buffer.adapters.sqlite.groups import read_group_row
from forklight_buffer.adapters.sqlite.lineages import line_of, owner_of, read_lineages
from forklight_buffer.adapters.sqlite.notes import read_control
from forklight_buffer.adapters.sqlite.samples import sample_row
from forklight_buffer.lookups import CommitPage, Ended, EnteredCommit, Found, LookupMarks, TakenBack
from forklight_buffer.records import Conflict, GroupRow
from forklight_buffer.states import State

ROWS = "SELECT s.*, g.kind AS kind FROM samples s JOIN groups g ON g.group_id = s.group_id"
ENDED = """SELECT s.sample_id, s.reward, s.ended_at, s.num_response_tokens, s.step, s.prompt_id,
substr(s.reason, 1, instr(s.reason || ':', ':') - 1), g.kind, s.state, s.finish_reason, s.purpose
FROM samples s JOIN groups g ON g.group_id = s.group_id"""
ROLLED_BACK = """SELECT max(at) AS at, epoch, became, from_lineage, min(from_step) AS first_step,
max(from_step) AS last_step, count(*) AS num_samples FROM rollbacks
GROUP BY epoch, became, from_lineage ORDER BY epoch DESC, became LIMIT ?"""


class LookupTable:
    """Implements `LookupLedger`."""

    _db: Database

    def lookup_marks(self) -> LookupMarks:
        with self._db.transaction():
            rows = self._db.rows("SELECT group_id FROM groups WHERE closed = 0")
            return LookupMarks(
                last_rollback=self._db.number("SELECT max(id) FROM rollbacks"),
                next_index=self._db.number("SELECT max(idx) + 1 FROM groups WHERE purpose = 1"),
                num_rounds=self._num_rounds(),
                open_groups=frozenset(row["group_id"] for row in rows),
            )

    def _num_rounds(self) -> int:
        return self._db.number("SELECT count(*) FROM groups WHERE purpose = 2")

    def num_terminal(self) -> int:
        return self._db.number("SELECT sum(num) FROM tallies")

    def samples_down(self, *, above: str, below: str, limit: int) -> list[Ended]:
        rows = self._db.look(
            f"{ENDED} WHERE s.sample_id > ? AND s.sample_id < ? ORDER BY s.sample_id DESC LIMIT ?",
            (above, below, limit),
        )
        return list(map(Ended._make, rows))

    def ended_of(self, group_ids: Sequence[str]) -> list[Ended]:
        marks = ",".join("?" * len(group_ids))
        rows = self._db.look(f"{ENDED} WHERE s.group_id IN ({marks}) ORDER BY s.sample_id", group_ids)
        return list(map(Ended._make, rows))

    def opened_groups(self, since: LookupMarks, until: LookupMarks) -> list[str]:
        rows = self._db.rows(
            "SELECT group_id FROM groups WHERE purpose = 1 AND idx >= ? AND idx < ?",
            (since.next_index, until.next_index),
        )
        return [row["group_id"] for row in rows]

    def moved_groups(self, since: LookupMarks) -> frozenset[str]:
        rows = self._db.rows(
            "SELECT DISTINCT substr(sample_id, 1, instr(sample_id, '/s') - 1) AS group_id FROM rollbacks "
            "WHERE id > ?",
            (since.last_rollback,),
        )
        if self._num_rounds() != since.num_rounds:
            rows += self._db.rows("SELECT group_id FROM groups WHERE purpose = 2")
        return frozenset(row["group_id"] for row in rows)

    def samples_of(self, group_ids: Sequence[str]) -> list[Found]:
        return self._found("s.group_id", group_ids)

    def samples_named(self, sample_ids: Sequence[str]) -> list[Found]:
        return self._found("s.sample_id", sample_ids)

    def _found(self, column: str, names: Sequence[str]) -> list[Found]:
        marks = ",".join("?" * len(names))
        rows = self._db.look(f"{ROWS} WHERE {column} IN ({marks}) ORDER BY s.sample_id", names)
        return [_found(row) for row in rows]

    def groups_down(self, *, below: int, prompt_id: str, limit: int) -> list[tuple[GroupRow, bool]]:
        condition, values = ("AND prompt_id = ? ", [prompt_id]) if prompt_id else ("", [])
        rows = self._db.look(
            f"SELECT * FROM groups WHERE purpose = 1 AND idx < ? {condition}ORDER BY idx DESC LIMIT ?",
            (below, *values, limit),
        )
        return [(read_group_row(row), bool(row["closed"])) for row in rows]

    def is_over(self, group_id: str) -> bool:
        return bool(self._db.number("SELECT closed FROM groups WHERE group_id = ?", (group_id,)))

    def commits_down(self, *, after: tuple[str, int] | None, limit: int) -> CommitPage:
        with self._db.transaction():
            control, found = read_control(self._db), list[EnteredCommit]()
            line, names = line_of(self._db, control), sorted(read_lineages(self._db), reverse=True)
            for name in names:
                if after is not None and name > after[0]:
                    continue
                below = after[1] if after is not None and name == after[0] else 2**62
                rows = self._db.rows(
                    "SELECT lineage, step, batch_id, at, json_array_length(sample_ids) AS num_samples "
                    "FROM commits WHERE lineage = ? AND step < ? ORDER BY step DESC LIMIT ?",
                    (name, below, limit + 1 - len(found)),
                )
                found += [
                    EnteredCommit(stands=owner_of(line, row["step"]) == name, **dict(row)) for row in rows
                ]
                if len(found) > limit:
                    break
            num_commits = self._db.number("SELECT count(*) FROM commits")
        return CommitPage(commits=found[:limit], has_more=len(found) > limit, num_commits=num_commits)

    def lineage_times(self) -> dict[str, float]:
        return {row["lineage"]: row["at"] for row in self._db.rows("SELECT lineage, at FROM lineages")}

    def taken_back(self, limit: int) -> list[TakenBack]:
        return [TakenBack(**dict(row)) for row in self._db.rows(ROLLED_BACK, (limit,))]

    def conflicts_down(self, limit: int) -> list[Conflict]:
        rows = self._db.rows("SELECT * FROM conflicts ORDER BY id DESC LIMIT ?", (limit,))
        return [
            Conflict(
                at=row["at"],
                sample_id=row["sample_id"],
                kept=State(row["kept"]),
                refused=State(row["refused"]),
                detail=row["detail"],
            )
            for row in rows
        ]

    def num_conflicts(self) -> int:
        return self._db.number("SELECT count(*) FROM conflicts")


def _found(row: sqlite3.Row) -> Found:
    return Found(row=sample_row(row), kind=row["kind"])
