"""A file of records: read in order, or one record at its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from forklight_core.errors import DataLossError, InvalidInputError
from forklight_core.whole_files import named_errors
from forklight_data.record import Record, read_json, read_record


class RecordsFile:
    """Plain JSON lines of records. `is_ours`: a step wrote them, and nobody since."""

    def __init__(self, path: Path, *, is_ours: bool = False) -> None:
        self._path = path
        self._is_ours = is_ours
        with named_errors(path):
            self._file = path.open("rb", buffering=2**20)

    def __enter__(self) -> RecordsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[tuple[int, Record]]:
        """Place and record, in order."""
        place = 0
        with named_errors(self._path), self._path.open("rb", buffering=2**20) as file:
            for line in file:
                if line.strip():
                    yield place, self._read(line, place)
                place += len(line)

    def at(self, place: int) -> Record:
        """The record at a place that iteration gave."""
        with named_errors(self._path):
            self._file.seek(place)
            return self._read(self._file.readline(), place)

    def _read(self, line: bytes, place: int) -> Record:
        try:
            record = read_record(read_json(line), check_hashes=not self._is_ours)
            if self._is_ours:
                object.__setattr__(record, "line", line)
            return record
        except InvalidInputError as error:
            raise DataLossError(
                f"{self._path}: the record at byte {place} {error}; "
                "make the file with `forklight data import`"
            ) from error
