"""Evaluation rounds of the ledger."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict

from forklight_buffer.adapters.sqlite.database import Database
from forklight_buffer.records import Estimates, PassEstimate, Round
from forklight_buffer.states import RoundState


class RoundTable:
    """Implements `RoundLedger`."""

    _db: Database

    def open_round(self, due: Round, at: float) -> bool:
        with self._db.transaction():
            entered = self._db.execute(
                "INSERT INTO evaluations (version, num_prompts, samples_per_prompt, state, due_at) "
                "VALUES (?, ?, ?, ?, ?) ON CONFLICT (version) DO UPDATE SET state = excluded.state, "
                "num_prompts = excluded.num_prompts, samples_per_prompt = excluded.samples_per_prompt, "
                "due_at = excluded.due_at WHERE state = 'skipped' AND excluded.state = 'open'",
                (due.version, due.num_prompts, due.samples_per_prompt, due.state, at),
            )
            return entered == 1

    def rounds(self, limit: int) -> list[Round]:
        rows = self._db.rows(
            "SELECT * FROM evaluations WHERE state <> 'skipped' ORDER BY version DESC LIMIT ?", (limit,)
        )
        return [_round(row) for row in reversed(rows)]

    def open_rounds(self) -> list[Round]:
        rows = self._db.rows("SELECT * FROM evaluations WHERE state = 'open' ORDER BY version")
        return [_round(row) for row in rows]

    def read_round(self, version: int) -> Round | None:
        row = self._db.row("SELECT * FROM evaluations WHERE version = ?", (version,))
        return None if row is None else _round(row)

    def num_skipped_rounds(self) -> int:
        return self._db.number("SELECT count(*) FROM evaluations WHERE state = 'skipped'")

    def unopened_rounds(self) -> Mapping[int, int]:
        rows = self._db.rows(
            "SELECT e.version AS version, count(g.group_id) AS opened FROM evaluations e "
            "LEFT JOIN groups g ON g.purpose = 2 AND g.opened_version = e.version "
            "WHERE e.state = 'open' GROUP BY e.version HAVING opened < e.num_prompts ORDER BY e.version"
        )
        return {row["version"]: row["opened"] for row in rows}

    def close_round(self, finished: Round, at: float) -> None:
        estimates = "" if finished.estimates is None else json.dumps(asdict(finished.estimates))
        with self._db.transaction():
            self._db.execute(
                "UPDATE evaluations SET num_scored = ?, num_failed = ?, mean_reward = ?, state = ?, "
                "estimates = ?, completed_at = ? WHERE version = ? AND state = 'open'",
                (
                    finished.num_scored, finished.num_failed, finished.mean_reward, finished.state, estimates,
                    at, finished.version,
                ),
            )  # fmt: skip


def _round(row: sqlite3.Row) -> Round:
    return Round(
        version=row["version"],
        num_prompts=row["num_prompts"],
        samples_per_prompt=row["samples_per_prompt"],
        state=RoundState(row["state"]),
        num_scored=row["num_scored"],
        num_failed=row["num_failed"],
        mean_reward=row["mean_reward"],
        estimates=_estimates(row["estimates"]),
    )


def _estimates(text: str) -> Estimates | None:
    if not text:
        return None
    found = json.loads(text)
    passes = tuple(PassEstimate(**each) for each in found.pop("pass_at"))
    return Estimates(pass_at=passes, **found)
