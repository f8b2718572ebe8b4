"""Step records as columns of numbers, ordered by step. A step that was redone counts as it was done last."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping

MOST_COLUMNS = 256
"""A record with more numbers than this is not ours; what comes later is left out."""


class StepTable:
    """Rows by step; `generation` rises when a row changed that was there before."""

    def __init__(self) -> None:
        self.steps: array[int] = array("q")
        self.columns: dict[str, array[float]] = {}
        self.generation = 0

    def __len__(self) -> int:
        return len(self.steps)

    def put(self, step: int, record: Mapping[str, object]) -> int:
        """Add or replace the row of a step; returns its place."""
        numbers = dict(numbers_of(record))
        if not self.steps or step > self.steps[-1]:
            self._append(step, numbers)
            return len(self.steps) - 1
        row = bisect_left(self.steps, step)
        if self.steps[row] != step:
            self.steps.insert(row, step)
            for column in self.columns.values():
                column.insert(row, math.nan)
        self.generation += 1
        self._add_columns(numbers)
        for name, column in self.columns.items():
            column[row] = numbers.get(name, math.nan)
        return row

    def _append(self, step: int, numbers: Mapping[str, float]) -> None:
        self._add_columns(numbers)
        self.steps.append(step)
        for name, column in self.columns.items():
            column.append(numbers.get(name, math.nan))

    def _add_columns(self, numbers: Mapping[str, float]) -> None:
        for name in numbers.keys() - self.columns.keys():
            if len(self.columns) < MOST_COLUMNS:
                self.columns[name] = array("d", [math.nan]) * len(self.steps)

    def row_of(self, step: int) -> dict[str, float] | None:
        """The numbers of a step."""
        row = bisect_left(self.steps, step)
        if row == len(self.steps) or self.steps[row] != step:
            return None
        return {name: column[row] for name, column in self.columns.items() if column[row] == column[row]}

    def names(self, wanted: Iterable[str]) -> Iterator[str]:
        """Names as asked, those that end with `*` as every column that begins so."""
        for name in wanted:
            if name.endswith("*"):
                yield from sorted(each for each in self.columns if each.startswith(name[:-1]))
            else:
                yield name

    def drop_oldest(self, number: int) -> None:
        """Forget the first rows."""
        self.steps = self.steps[number:]
        self.columns = {name: column[number:] for name, column in self.columns.items()}
        self.generation += 1

    def clear(self) -> None:
        """Forget every row."""
        self.steps = array("q")
        self.columns = {}
        self.generation += 1

    def column(self, name: str) -> array[float]:
        """The numbers of a name, NaN where a step has none."""
        found = self.columns.get(name)
        return found if found is not None else array("d", [math.nan]) * len(self.steps)

    def places(self, axis: str) -> array[float]:
        """Where each row lies: by `step`, `time` (hours since the first) or `samples` (trained so far)."""
        if axis == "step":
            return array("d", self.steps)
        if axis == "time":
            times = self.column("time")
            first = next((value for value in times if value == value), 0.0)
            return _ascending((value - first) / 3600 for value in times)
        total, sums = 0.0, array("d")
        for value in self.column("num_samples"):
            total += value if value == value else 0.0
            sums.append(total)
        return sums


def numbers_of(record: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    """Numbers of a record by name; those one level down are called `outer.inner`."""
    for name, value in record.items():
        if isinstance(value, float | int):
            yield name, float(value)
        elif isinstance(value, dict):
            for inner, each in value.items():
                if isinstance(each, float | int):
                    yield f"{name}.{inner}", float(each)


def _ascending(values: Iterator[float]) -> array[float]:
    """Clocks go back, lines do not: no value below the one before, nor missing."""
    result, highest = array("d"), 0.0
    for value in values:
        highest = max(highest, value) if value == value else highest
        result.append(highest)
    return result
