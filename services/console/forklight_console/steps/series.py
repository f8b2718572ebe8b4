"""Series for charts: thinned into buckets that keep every spike, sent on as they grow.

A bucket is 2^k rows. Each gives two points, the lowest and the highest value in the order in which they came:
one bad step of 10,000 is still seen. Figures that are stacked give their mean. Buckets lie where they lay
before while k is the same: what was sent of full buckets stays true.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from forklight_console.steps.table import StepTable

MOST_POINTS = 2000
MEAN_PREFIX = "seconds."
"""Stages of a step are stacked: a sum of highest values would be no step's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesQuery:
    """What a chart asks: `low` to `high` on the axis. `bucket`, `generation`, `full_buckets`: what it has."""

    fields: tuple[str, ...]
    points: int = 1000
    axis: str = "step"
    low: float | None = None
    high: float | None = None
    bucket: int = 0
    generation: int = -1
    full_buckets: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points from `start_slot` on; those before stay as they were sent."""

    bucket: int
    generation: int
    full_buckets: int
    start_slot: int
    num_rows: int
    last_step: int
    x: Sequence[float]
    values: dict[str, list[float | None]]
    means: dict[str, list[float | None]]
    """One a bucket, from that of `start_slot` on; empty where a bucket is a row."""


def make_series(table: StepTable, query: SeriesQuery) -> Series:
    """The points that the asker lacks."""
    places = table.places(query.axis)
    begin = 0 if query.low is None else bisect_left(places, query.low)
    end = len(table) if query.high is None else bisect_right(places, query.high)
    num_rows = max(0, end - begin)
    bucket = bucket_size(num_rows, query.points)
    is_known = (query.bucket, query.generation) == (bucket, table.generation) and not begin
    full = num_rows // bucket
    first = min(query.full_buckets, full) if is_known else 0
    starts = range(begin + first * bucket, begin + num_rows, bucket)
    x = [place for start in starts for place in _ends(places, start, min(start + bucket, end))]
    columns = {name: table.column(name)[:end] for name in table.names(query.fields)}
    values = {name: _thin(column, starts, bucket, name) for name, column in columns.items()}
    means = {name: _means(column, starts, bucket) for name, column in columns.items() if bucket > 1}
    return Series(
        bucket=bucket,
        generation=table.generation,
        full_buckets=full,
        start_slot=first * (1 if bucket == 1 else 2),
        num_rows=num_rows,
        last_step=table.steps[-1] if len(table) else 0,
        x=[round(value, 4) for value in x],
        values=values,
        means=means,
    )


def bucket_size(num_rows: int, points: int) -> int:
    """The smallest power of two that gives at most so many points."""
    bucket = 1
    while num_rows > points if bucket == 1 else 2 * num_rows > points * bucket:
        bucket *= 2
    return bucket


def _ends(places: array[float], start: int, stop: int) -> tuple[float, ...]:
    return (places[start],) if stop - start == 1 else (places[start], places[stop - 1])


def _thin(column: array[float], starts: range, bucket: int, name: str) -> list[float | None]:
    if bucket == 1:
        return [shorten(value) for value in column[starts.start :]]
    points: list[float | None] = []
    for start in starts:
        part = column[start : start + bucket]
        points += _summarize(part, is_mean=name.startswith(MEAN_PREFIX))[: len(part)]
    return points


def _means(column: array[float], starts: range, bucket: int) -> list[float | None]:
    return [_mean(column[start : start + bucket]) for start in starts]


def _mean(part: array[float]) -> float | None:
    present = [value for value in part if value == value]
    return shorten(sum(present) / len(present)) if present else None


def _summarize(part: array[float], *, is_mean: bool) -> tuple[float | None, float | None]:
    present = [value for value in part if value == value]
    if not present:
        return None, None
    if is_mean:
        return _mean(part), _mean(part)
    low, high = min(present), max(present)
    if present.index(low) <= present.index(high):
        return shorten(low), shorten(high)
    return shorten(high), shorten(low)


def shorten(value: float) -> float | None:
    """Seven digits are more than a chart shows; missing is null."""
    return float(f"{value:.7g}") if abs(value) < float("inf") else None
