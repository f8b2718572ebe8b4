"""Step records as they grow: read once, redone, cut, torn; thinned without losing a spike."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from forklight_console.steps.log import StepLog
from forklight_console.steps.series import Series, SeriesQuery, bucket_size, make_series
from forklight_console.steps.table import MOST_COLUMNS, StepTable


def write(path: Path, *lines: object, mode: str = "a") -> None:
    with path.open(mode) as file:
        file.writelines(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)


def steps_of(log: StepLog) -> list[int]:
    return log.look(lambda table: list(table.steps))


def test_log_reads_only_what_is_new_and_leaves_a_torn_line_for_later(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    log = StepLog(path)
    assert log.records(after=0, limit=10) == []
    write(path, {"step": 1, "a": 0.5}, {"step": 2, "a": None, "seconds": {"train": 3}}, '{"step": 3, "a"')
    assert log.records(after=0, limit=10) == [
        {"step": 1, "a": 0.5},
        {"step": 2, "a": None, "seconds": {"train": 3}},
    ]
    write(path, ": 7}\n", "no json\n", '{"no": "step"}\n')
    assert log.records(after=1, limit=1) == [{"step": 3, "a": 7}]
    assert log.num_unreadable == 2
    assert log.look(lambda table: list(table.column("a")))[::2] == [0.5, 7.0]
    assert log.look(lambda table: table.column("seconds.train")[1]) == 3.0


def test_a_step_that_was_redone_counts_as_it_was_done_last(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    write(path, {"step": 1, "try": 1}, {"step": 2, "try": 1})
    log = StepLog(path)
    assert steps_of(log) == [1, 2]
    write(path, {"step": 1, "try": 2})
    assert log.records(after=0, limit=10) == [{"step": 1, "try": 2}, {"step": 2, "try": 1}]
    assert log.records(after=1, limit=10) == [{"step": 2, "try": 1}]


@pytest.mark.parametrize("is_longer", [True, False])
def test_a_file_that_was_replaced_is_read_from_the_start(tmp_path: Path, is_longer: bool) -> None:
    path, other = tmp_path / "steps.jsonl", tmp_path / "other"
    write(path, *({"step": step, "a": 1} for step in range(1, 6)))
    log = StepLog(path)
    generation = log.look(lambda table: table.generation)
    write(other, *({"step": step, "a": 2} for step in range(1, 30 if is_longer else 3)))
    other.replace(path)
    assert steps_of(log) == list(range(1, 30 if is_longer else 3))
    assert log.look(lambda table: set(table.column("a"))) == {2.0}
    assert log.look(lambda table: table.generation) > generation
    path.unlink()
    assert steps_of(log) == []


def test_a_file_cut_in_place_and_grown_again_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    write(path, *({"step": step, "a": 1} for step in range(1, 6)))
    log = StepLog(path)
    assert len(steps_of(log)) == 5
    write(path, *({"step": step, "a": 2} for step in range(1, 6)), mode="w")
    assert log.look(lambda table: set(table.column("a"))) == {2.0}


def table_of(values: list[float | None]) -> StepTable:
    table = StepTable()
    for step, value in enumerate(values, start=1):
        table.put(step, {"a": value, "seconds": {"train": value}, "num_samples": 2})
    return table


@pytest.mark.parametrize("num_rows", [0, 1, 16, 17, 1000, 1001, 10_000])
def test_thinning_keeps_extremes_and_stays_within_the_points_asked(num_rows: int) -> None:
    noise = random.Random(num_rows)
    values: list[float | None] = [noise.random() for _ in range(num_rows)]
    if num_rows > 20:
        values[num_rows // 2] = 99.0
        values[num_rows // 3] = -99.0
        values[5] = None
    series = make_series(table_of(values), SeriesQuery(fields=("a", "none"), points=400))
    assert len(series.x) == len(series.values["a"]) <= 400
    assert series.x == sorted(series.x)
    present = [value for value in values if value is not None]
    if present:
        shown = [value for value in series.values["a"] if value is not None]
        assert (max(shown), min(shown)) == pytest.approx((max(present), min(present)), rel=1e-6)
        assert (series.x[0], series.x[-1]) == (1, num_rows)
    assert set(series.values["none"]) <= {None}


def merge(have: Series | None, answer: Series) -> Series:
    """As the page does it."""
    if have is None or not answer.start_slot:
        return answer
    x = [*have.x[: answer.start_slot], *answer.x]
    values = {
        name: [*have.values[name][: answer.start_slot], *column] for name, column in answer.values.items()
    }
    start = answer.start_slot // 2
    means = {name: [*have.means[name][:start], *column] for name, column in answer.means.items()}
    return Series(
        **{name: getattr(answer, name) for name in answer.__slots__}
        | {"x": x, "values": values, "means": means}
    )


def test_what_is_sent_as_it_grows_is_what_is_sent_at_once() -> None:
    noise = random.Random(3)
    table, have = StepTable(), None
    num_answers_in_part = 0
    for step in range(1, 700):
        table.put(step, {"a": noise.random(), "seconds": {"train": noise.random()}})
        if step == 450:
            table.put(400, {"a": 7.0})
        if step % 7:
            continue
        known = (have.bucket, have.generation, have.full_buckets) if have else (0, 0, 0)
        query = SeriesQuery(
            fields=("a", "seconds.train"),
            points=100,
            bucket=known[0],
            generation=known[1],
            full_buckets=known[2],
        )
        answer = make_series(table, query)
        num_answers_in_part += answer.start_slot > 0
        have = merge(have, answer)
        whole = make_series(table, SeriesQuery(fields=query.fields, points=100))
        assert (have.x, have.values, have.means) == (whole.x, whole.values, whole.means)
    assert num_answers_in_part > 80


def test_a_range_is_thinned_by_itself() -> None:
    table = table_of([float(step) for step in range(1, 5001)])
    series = make_series(table, SeriesQuery(fields=("a",), points=400, low=100, high=299))
    assert (series.bucket, series.x[0], series.x[-1]) == (1, 100, 299)
    assert make_series(table, SeriesQuery(fields=("a",), low=9000)).x == []


def test_stages_are_thinned_to_means_for_they_are_stacked() -> None:
    series = make_series(table_of([1.0, 3.0] * 100), SeriesQuery(fields=("seconds.train",), points=50))
    assert set(series.values["seconds.train"]) == {2.0}


def test_rows_lie_by_time_and_samples_too() -> None:
    table = StepTable()
    for step, at in enumerate((100.0, 3700.0, 50.0, None), start=1):
        table.put(step, {"time": at, "num_samples": 8})
    assert list(table.places("time")) == [0.0, 1.0, 1.0, 1.0]
    assert list(table.places("samples")) == [8.0, 16.0, 24.0, 32.0]


def test_bounds_hold_whatever_a_record_says() -> None:
    table = StepTable()
    table.put(1, {f"name{number}": number for number in range(MOST_COLUMNS * 2)})
    assert len(table.columns) == MOST_COLUMNS
    assert [bucket_size(rows, 1000) for rows in (0, 1000, 1001, 4000, 4001, 10_000)] == [1, 1, 4, 8, 16, 32]
