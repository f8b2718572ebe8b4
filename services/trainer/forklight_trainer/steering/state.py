"""Reads what a checkpoint remembers of steering. What cannot be read is an error that says where."""

from __future__ import annotations

import math
from collections.abc import Mapping

from forklight_core.errors import CheckpointError

JsonObject = Mapping[str, object]


def read_table(state: JsonObject, name: str) -> JsonObject:
    """A JSON object inside; empty when absent: an older release wrote the checkpoint."""
    value = state.get(name, {})
    if isinstance(value, Mapping):
        return value
    raise _wrong(name, value, "an object")


def read_tables(state: JsonObject, name: str) -> list[JsonObject]:
    """A list of JSON objects."""
    value = state.get(name, [])
    if isinstance(value, list) and all(isinstance(each, Mapping) for each in value):
        return value
    raise _wrong(name, value, "a list of objects")


def read_whole(state: JsonObject, name: str) -> int:
    value = state.get(name, 0)
    if isinstance(value, int):
        return int(value)
    raise _wrong(name, value, "a whole number")


def read_number(state: JsonObject, name: str) -> float:
    """NaN where it is null."""
    value = state.get(name)
    if value is None:
        return math.nan
    if isinstance(value, int | float):
        return value
    raise _wrong(name, value, "a number")


def read_numbers(state: JsonObject, name: str) -> list[float]:
    value = state.get(name, [])
    if isinstance(value, list) and all(isinstance(each, int | float) for each in value):
        return [float(each) for each in value]
    raise _wrong(name, value, "a list of numbers")


def read_text(state: JsonObject, name: str) -> str:
    value = state.get(name, "")
    if isinstance(value, str):
        return value
    raise _wrong(name, value, "text")


def _wrong(name: str, value: object, expected: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint's memory of steering holds {value!r} as {name}, expected {expected}: take an older "
        "checkpoint, or empty the object `steering` in its state.json"
    )
