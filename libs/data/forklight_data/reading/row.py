"""A row as somebody's file holds it: its place, and its fields or why there are none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal

from forklight_core.errors import InvalidInputError
from forklight_data.record import Json, JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Where it stands (file and line or row), and what it says."""

    where: str
    fields: JsonObject | None = None
    problem: str = ""
    raw: str = ""
    """The beginning of a line that could not be read."""


def plain_object(fields: Mapping[str, object], leave_out: frozenset[str]) -> JsonObject:
    """Values of a table as JSON has them; InvalidInputError names the column that cannot be."""
    return {name: plain(value, name) for name, value in fields.items() if name not in leave_out}


def plain(value: object, name: str) -> Json:
    """One value; arrays, structs, times and decimals have a spelling, bytes have none."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInputError(f"column {name} holds {value}, which is no number of JSON")
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(inner, name) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, name) for inner in value]
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    raise InvalidInputError(
        f"column {name} holds {type(value).__name__}, which a record cannot; "
        f"leave it out with --leave-out {name}"
    )
