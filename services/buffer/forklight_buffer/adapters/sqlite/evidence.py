"""What finished training groups say of their prompts, one row a group, in the order they finished.

A row belongs to a step of a line of checkpoints, as reported events do: whether it counts follows from the
line that the run is on, so that it is right after every rewind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from forklight_buffer.adapters.sqlite.database import Database
from forklight_buffer.adapters.sqlite.lineages import Segment, line_of, owner_of
from forklight_buffer.adapters.sqlite.notes import read_control
from forklight_buffer.ledger import EvidencePage
from forklight_buffer.records import Evidence

READ = """SELECT number, prompt_id, num_scored, passed, step, lineage FROM evidence
WHERE number > ? ORDER BY number LIMIT ?"""
TALLY = """SELECT g.prompt_id AS prompt_id,
count(*) FILTER (WHERE s.reward IS NOT NULL AND s.state NOT IN (13, 14)) AS num_scored,
total(min(max(coalesce(s.correct, s.reward), 0.0), 1.0))
  FILTER (WHERE s.reward IS NOT NULL AND s.state NOT IN (13, 14)) AS passed,
max(CASE WHEN s.state = 10 THEN s.step ELSE -1 END) AS step
FROM groups g JOIN samples s USING (group_id) WHERE g.group_id = ? AND g.purpose = 1"""
ENTER = """INSERT INTO evidence (group_id, prompt_id, num_scored, passed, step, lineage)
VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""


class EvidenceTable:
    """Implements `EvidenceLedger`."""

    _db: Database

    def evidence(self, *, after: int, limit: int, with_open: bool) -> EvidencePage:
        with self._db.transaction():
            control = read_control(self._db)
            line = line_of(self._db, control)
            rows = self._db.rows(READ, (after, limit))
            open_prompts = Counter[str]()
            if with_open and len(rows) < limit:
                found = self._db.rows("SELECT prompt_id FROM groups WHERE closed = 0 AND purpose = 1")
                open_prompts.update(row["prompt_id"] for row in found)
        return EvidencePage(
            rows=[Evidence(*row[:5]) for row in rows if _stands(line, row["lineage"], row["step"])],
            last_number=rows[-1]["number"] if rows else after,
            lineage=control.lineage,
            step=control.step,
            is_last=len(rows) < limit,
            open_prompts=open_prompts,
        )


def enter_evidence(db: Database, closed: Sequence[str]) -> None:
    """Groups are over: once for each and line of checkpoints. After the notes of the same transaction."""
    if not closed:
        return
    control = read_control(db)
    line = line_of(db, control)
    for group_id in closed:
        found = db.row(TALLY, (group_id,))
        if found is None or found["prompt_id"] is None or _counts_already(db, group_id, line):
            continue
        step = found["step"] if found["step"] >= 0 else control.step
        values = (group_id, found["prompt_id"], found["num_scored"], found["passed"], step)
        db.execute(ENTER, (*values, owner_of(line, step)))


def _counts_already(db: Database, group_id: str, line: list[Segment]) -> bool:
    rows = db.rows("SELECT lineage, step FROM evidence WHERE group_id = ?", (group_id,))
    return any(_stands(line, row["lineage"], row["step"]) for row in rows)


def _stands(line: list[Segment], lineage: str, step: int) -> bool:
    return step == 0 or owner_of(line, step) == lineage
