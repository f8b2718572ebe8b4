"""`steps.jsonl` read as it grows: each line once, what was replaced from the start on."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, TypeVar

from forklight_console.steps.table import StepTable

MOST_LINE_BYTES = 1 << 20
Result = TypeVar("Result")


class StepLog:
    """The columns of a steps file, and where its lines are. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._table = StepTable()
        self._lines: list[tuple[int, int]] = []  # offset and length, row by row
        self._lock = threading.Lock()
        self._end = 0
        self._last_line = b""
        self._file_id = (0, 0)
        self.num_unreadable = 0
        """Complete lines that are no step record; they are left out."""

    def look(self, use: Callable[[StepTable], Result]) -> Result:
        """What `use` makes of the table, brought up to date first."""
        with self._lock:
            self._refresh()
            return use(self._table)

    def records(self, *, after: int, limit: int) -> list[Mapping[str, object]]:
        """The newest records behind a step, in the order of their steps."""
        with self._lock:
            self._refresh()
            first = next(
                (row for row in range(len(self._table) - 1, -1, -1) if self._table.steps[row] <= after), -1
            )
            wanted = self._lines[max(first + 1, len(self._lines) - limit) :]
            if not wanted:
                return []
            with self._path.open("rb") as file:
                return [json.loads(_read_at(file, *line)) for line in wanted]

    def _refresh(self) -> None:
        try:
            with self._path.open("rb") as file:
                if self._is_other(file):
                    self._forget()
                self._read_on(file)
        except FileNotFoundError:
            if self._end:
                self._forget()

    def _is_other(self, file: BinaryIO) -> bool:
        """Whether the file was replaced or cut: the last line read is not where it was."""
        found = os.fstat(file.fileno())
        file_id = (found.st_dev, found.st_ino)
        is_same = file_id == self._file_id and found.st_size >= self._end
        self._file_id = file_id
        return (
            not is_same
            or _read_at(file, self._end - len(self._last_line), len(self._last_line)) != self._last_line
        )

    def _forget(self) -> None:
        self._table.clear()
        self._lines = []
        self._end, self._last_line, self.num_unreadable = 0, b"", 0

    def _read_on(self, file: BinaryIO) -> None:
        file.seek(self._end)
        while (line := file.readline(MOST_LINE_BYTES)).endswith(b"\n"):
            self._take(line)
            self._end += len(line)
            self._last_line = line

    def _take(self, line: bytes) -> None:
        try:
            record = json.loads(line)
            step = int(record["step"])
        except (ValueError, KeyError, TypeError):
            self.num_unreadable += 1
            return
        num_rows = len(self._table)
        row = self._table.put(step, record)
        if len(self._table) > num_rows:
            self._lines.insert(row, (self._end, len(line)))
        else:
            self._lines[row] = (self._end, len(line))


def _read_at(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)
