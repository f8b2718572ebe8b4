"""One connection to ledger.sqlite: WAL, an fsync with every commit, one transaction at a time."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from forklight_buffer.adapters.sqlite.schema import FORMAT, SCHEMA, UPGRADES
from forklight_core.errors import BusyError, DataLossError, ForklightError

Value = str | bytes | int | float | None


class Database:
    """Guarded by a lock: threads take turns. Transactions nest; the outermost one commits."""

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._connection = sqlite3.connect(
            ":memory:" if path is None else path, timeout=5.0, isolation_level=None, check_same_thread=False
        )
        self._connection.row_factory = sqlite3.Row
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._create(path)
        self._look_lock = self._lock if path is None else threading.RLock()
        self._reader = self._connection if path is None else _open_reader(path)

    def _create(self, path: Path | None) -> None:
        found = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, FORMAT, *UPGRADES):
            raise DataLossError(
                f"{path} has ledger format {found}, this build reads {FORMAT}: use the release that made it"
            )
        with self.transaction():
            for older in range(found or FORMAT, FORMAT):
                for statement in _statements(UPGRADES[older]):
                    self._connection.execute(statement)
            for statement in _statements(SCHEMA):
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version = {FORMAT}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing."""
        with self._lock:
            self._depth += 1
            try:
                if self._depth == 1:
                    self._connection.execute("BEGIN IMMEDIATE")
                yield
                if self._depth == 1:
                    self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                self._roll_back()
                raise _explain(error) from error
            except BaseException:
                self._roll_back()
                raise
            finally:
                self._depth -= 1

    def _roll_back(self) -> None:
        if self._depth == 1 and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def execute(self, sql: str, values: Sequence[Value] = ()) -> int:
        """Run a statement; returns the number of rows it changed."""
        with self._lock:
            return self._connection.execute(sql, values).rowcount

    def execute_many(self, sql: str, rows: Sequence[Sequence[Value]]) -> None:
        """Run a statement for each row."""
        with self._lock:
            self._connection.executemany(sql, rows)

    def rows(self, sql: str, values: Sequence[Value] = ()) -> list[sqlite3.Row]:
        """All rows of a query."""
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def look(self, sql: str, values: Sequence[Value] = ()) -> list[sqlite3.Row]:
        """All rows of a query of people, of what is committed: long ones keep no writer waiting."""
        with self._look_lock:
            return self._reader.execute(sql, values).fetchall()

    def row(self, sql: str, values: Sequence[Value] = ()) -> sqlite3.Row | None:
        """The first row of a query."""
        found = self.rows(sql, values)
        return found[0] if found else None

    def number(self, sql: str, values: Sequence[Value] = ()) -> int:
        """The first value of the first row."""
        found = self.row(sql, values)
        return int(found[0]) if found is not None and found[0] is not None else 0

    def close(self) -> None:
        """Give the file free."""
        with self._look_lock:
            self._reader.close()
        with self._lock:
            self._connection.close()


def _open_reader(path: Path) -> sqlite3.Connection:
    """A second connection, beside the one that writes (WAL)."""
    reader = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro",
        uri=True,
        timeout=5.0,
        isolation_level=None,
        check_same_thread=False,
    )
    reader.row_factory = sqlite3.Row
    return reader


def _statements(script: str) -> Iterator[str]:
    """Complete statements of a script (triggers hold semicolons of their own)."""
    waiting = ""
    for line in script.splitlines(keepends=True):
        waiting += line
        if sqlite3.complete_statement(waiting):
            yield waiting
            waiting = ""


def _explain(error: sqlite3.Error) -> ForklightError:
    text = str(error)
    if "full" in text or "locked" in text:
        return BusyError(
            f"the ledger cannot be written: {text}; free disk space, or end "
            "the other process that has it open"
        )
    return DataLossError(f"the ledger refused a transaction: {text}; run `forklight audit` on the run folder")
