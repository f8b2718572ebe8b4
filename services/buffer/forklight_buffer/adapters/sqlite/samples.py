"""Terminal samples of the ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from forklight_buffer.adapters.sqlite.database import Database, Value
from forklight_buffer.adapters.sqlite.evidence import enter_evidence
from forklight_buffer.ledger import Entered, SampleFilter
from forklight_buffer.records import Conflict, Ending, EvaluatedSample, SampleRow
from forklight_buffer.states import Purpose, State
from forklight_core import ids

COLUMNS = (
    "sample_id", "group_id", "prompt_id", "purpose", "state", "reason", "reward", "num_response_tokens",
    "finish_reason", "min_version", "max_version", "lineage", "step", "payload_id", "payload_bytes",
    "opened_at", "ended_at", "correct",
)  # fmt: skip
INSERT = (
    f"INSERT INTO samples ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "
    "ON CONFLICT DO NOTHING"  # not OR IGNORE, which would also swallow broken CHECKs
)
CLOSE_GROUP = """UPDATE groups SET closed = 1
WHERE group_id = ? AND closed = 0
AND size <= (SELECT count(*) FROM samples WHERE group_id = groups.group_id)"""


class SampleTable:
    """Implements `SampleLedger`."""

    _db: Database

    def enter_samples(self, rows: Sequence[SampleRow]) -> Entered:
        new: list[SampleRow] = []
        conflicts: list[Conflict] = []
        with self._db.transaction():
            for row in rows:
                if insert_sample(self._db, row):
                    new.append(row)
                else:
                    conflicts += find_conflict(self._db, row)
            enter_evidence(self._db, close_groups(self._db, {row.group_id for row in rows}))
            record_conflicts(self._db, conflicts)
        return Entered(new=tuple(new), conflicts=tuple(conflicts))

    def read_sample(self, sample_id: str) -> SampleRow | None:
        found = self._db.row("SELECT * FROM samples WHERE sample_id = ?", (sample_id,))
        return None if found is None else sample_row(found)

    def endings_of(self, group_id: str) -> list[Ending]:
        sql = "SELECT sample_id, state, reason FROM samples WHERE group_id = ? ORDER BY sample_id"
        return [
            Ending(index=ids.sample_index(row["sample_id"]), state=State(row["state"]), reason=row["reason"])
            for row in self._db.rows(sql, (group_id,))
        ]

    def list_samples(self, wanted: SampleFilter) -> list[SampleRow]:
        conditions, values = ["sample_id > ?"], [wanted.after]
        chosen: list[Value] = list(values)
        if wanted.state is not None:
            conditions.append("state = ?")
            chosen.append(int(wanted.state))
        if wanted.group_id:
            conditions.append("group_id = ?")
            chosen.append(wanted.group_id)
        sql = f"SELECT * FROM samples WHERE {' AND '.join(conditions)} ORDER BY sample_id LIMIT ?"
        return [sample_row(row) for row in self._db.rows(sql, [*chosen, wanted.limit])]

    def tallies(self) -> dict[tuple[State, str], int]:
        rows = self._db.rows("SELECT * FROM tallies WHERE num > 0 ORDER BY state, reason")
        return {(State(row["state"]), row["reason"]): row["num"] for row in rows}

    def evaluated_samples(self, version: int) -> list[EvaluatedSample]:
        rows = self._db.rows(
            "SELECT s.group_id, s.reason, s.reward, s.correct FROM groups g JOIN samples s USING (group_id) "
            "WHERE g.purpose = 2 AND g.opened_version = ? ORDER BY s.sample_id",
            (version,),
        )
        return [
            EvaluatedSample(
                group_id=row["group_id"],
                reason=row["reason"],
                reward=row["reward"],
                correct=row["correct"],
            )
            for row in rows
        ]

    def evaluation_scores(self, version: int) -> tuple[int, int, float]:
        row = self._db.row(
            "SELECT count(s.reward) AS scored, count(*) - count(s.reward) AS failed, "
            "coalesce(avg(s.reward), 0.0) AS mean "
            "FROM groups g JOIN samples s USING (group_id) WHERE g.purpose = 2 AND g.opened_version = ?",
            (version,),
        )
        return (row["scored"], row["failed"], row["mean"]) if row is not None else (0, 0, 0.0)

    def expired_payloads(self, *, ended_before: float, trained_before_step: int, limit: int) -> list[str]:
        rows = self._db.rows(
            "SELECT payload_id FROM samples WHERE kept = 1 AND payload_id <> '' AND ended_at < ? AND "
            "(state <> 10 OR step < ?) UNION SELECT payload_id FROM discards d WHERE at < ? AND NOT EXISTS "
            "(SELECT 1 FROM samples s WHERE s.kept = 1 AND s.payload_id = d.payload_id) LIMIT ?",
            (ended_before, trained_before_step, ended_before, limit),
        )
        return [row["payload_id"] for row in rows]

    def drop_payloads(self, payload_ids: Sequence[str]) -> None:
        with self._db.transaction():
            marks = [(payload,) for payload in payload_ids]
            self._db.execute_many("UPDATE samples SET kept = 0 WHERE kept = 1 AND payload_id = ?", marks)
            self._db.execute_many("DELETE FROM discards WHERE payload_id = ?", marks)

    def discard_payloads(self, payload_ids: Sequence[str], at: float) -> None:
        with self._db.transaction():
            sql = "INSERT INTO discards VALUES (?, ?) ON CONFLICT DO NOTHING"
            self._db.execute_many(sql, [(payload_id, at) for payload_id in payload_ids])

    def keep_payloads(self, payload_ids: Sequence[str]) -> None:
        sql = "SELECT payload_id FROM discards WHERE payload_id = ?"
        found = [payload_id for payload_id in payload_ids if self._db.row(sql, (payload_id,)) is not None]
        if found:  # hardly ever: no fsync for nothing
            with self._db.transaction():
                marks = [(payload_id,) for payload_id in found]
                self._db.execute_many("DELETE FROM discards WHERE payload_id = ?", marks)


def insert_sample(db: Database, row: SampleRow) -> bool:
    """Enter a terminal sample; False when it has ended before."""
    values: list[Value] = [getattr(row, column) for column in COLUMNS]
    return db.execute(INSERT, values) == 1


def find_conflict(db: Database, row: SampleRow) -> list[Conflict]:
    """The conflict between a refused row and the one that is kept, if their states differ."""
    kept = db.row("SELECT state, reason FROM samples WHERE sample_id = ?", (row.sample_id,))
    if kept is None or kept["state"] == row.state:
        return []
    detail = f"kept reason {kept['reason']!r}, refused reason {row.reason!r} of step {row.step}"
    return [
        Conflict(
            at=row.ended_at,
            sample_id=row.sample_id,
            kept=State(kept["state"]),
            refused=row.state,
            detail=detail,
        )
    ]


def record_conflicts(db: Database, conflicts: Iterable[Conflict]) -> None:
    """Enter refused terminal states; the same refusal once."""
    for conflict in conflicts:
        db.execute(
            "INSERT INTO conflicts (at, sample_id, kept, refused, detail) "
            "VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (conflict.at, conflict.sample_id, int(conflict.kept), int(conflict.refused), conflict.detail),
        )


def close_groups(db: Database, group_ids: Iterable[str]) -> list[str]:
    """Groups all of whose samples have ended are over; returns those that were not before."""
    return [group_id for group_id in sorted(group_ids) if db.execute(CLOSE_GROUP, (group_id,))]


def sample_row(row: sqlite3.Row) -> SampleRow:
    """A row of samples."""
    found = {column: row[column] for column in COLUMNS}
    found["state"], found["purpose"] = State(found["state"]), Purpose(found["purpose"])
    return SampleRow(**found)
