"""Optimizer steps as the supervisor shows them, read from the trainer's `steps.jsonl` while it grows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Column of the table: key of the trainer's record, how it is written.
COLUMNS: Mapping[str, tuple[str, str]] = {
    "step": ("step", "d"),
    "version": ("version", "d"),
    "reward": ("reward_mean", ".3f"),
    "length p50": ("length_p50", ".0f"),
    "length p99": ("length_p99", ".0f"),
    "entropy": ("entropy", ".3f"),
    "clipped": ("clip_share", ".2%"),
    "staleness": ("staleness_mean", ".2f"),
    "correlation": ("parity_correlation", ".5f"),
    "tokens/s": ("tokens_per_s", ".0f"),
}


@dataclass(frozen=True, slots=True)
class Step:
    """One record of `steps.jsonl`."""

    record: Mapping[str, object]

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
    """Reads what was appended since the last call."""

    def __init__(self, path: Path, *, skip_existing: bool) -> None:
        self._path = path
        self._offset = path.stat().st_size if skip_existing and path.exists() else 0

    def read_new(self) -> list[Step]:
        """Steps whose lines are complete."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        self._offset += len(complete)
        return [Step(json.loads(line)) for line in complete.splitlines() if line.strip()]
