"""Optimizer steps as the supervisor shows them, read from the trainer's `steps.jsonl` while it grows."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

# Column of the table: key of the trainer's record, how it is written.
COLUMNS: Mapping[str, tuple[str, str]] = {
    "step": ("step", "d"),
    "version": ("version", "d"),
    "reward": ("reward_mean", ".3f"),
    "length p50": ("length_p50", ".0f"),
    "length p99": ("length_p99", ".0f"),
    "entropy": ("entropy", ".3f"),
    "clipped": ("clip_share_high", ".2%"),
    "staleness": ("staleness_mean", ".2f"),
    "correlation": ("correlation", ".5f"),
    "tokens/s": ("tokens_per_s", ".0f"),
}


@dataclass(frozen=True, slots=True)
class Step:
    """One record of `steps.jsonl`."""

    record: Mapping[str, object]

    @property
    def time(self) -> float:
        """When the step was done, unix time."""
        value = self.record.get("time")
        return float(value) if isinstance(value, int | float) else 0.0

    def text(self, column: str) -> str:
        """A value as shown; "-" where the trainer did not measure it."""
        key, form = COLUMNS[column]
        value = self.record.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "-"
        return format(int(value), form) if form == "d" else format(value, form)

    def line(self) -> str:
        """All columns as one line of key=value."""
        return " ".join(f"{column.replace(' ', '_')}={self.text(column)}" for column in COLUMNS)


class StepReader:
    """Reads what was appended since the last call. A restarted trainer replaces the file by a shorter one."""

    def __init__(self, path: Path, *, skip_existing: bool) -> None:
        self._path = path
        self._file_number = 0
        self._offset = 0
        self._newest = 0.0
        if skip_existing:
            self.read_new()

    def read_new(self) -> list[Step]:
        """Steps whose lines are complete and were not read before."""
        try:
            with self._path.open("rb") as file:
                lines = self._read_complete(file)
        except FileNotFoundError:
            return []
        found = [Step(json.loads(line)) for line in lines]
        fresh = [step for step in found if step.time > self._newest]
        self._newest = max([self._newest, *(step.time for step in fresh)])
        return fresh

    def _read_complete(self, file: IO[bytes]) -> list[bytes]:
        state = os.fstat(file.fileno())
        if state.st_ino != self._file_number or state.st_size < self._offset:
            self._file_number, self._offset = state.st_ino, 0
        file.seek(self._offset)
        data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        self._offset += len(complete)
        return complete.splitlines()
