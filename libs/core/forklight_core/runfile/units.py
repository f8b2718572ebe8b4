"""Numbers with units, as people type them in a run file.

Counts: k, M, G are powers of 1000; Ki, Mi, Gi powers of 1024 ("80k" is 80000, "80Ki" is 81920).
Bytes: the same with B at the end ("5MiB", "2GB", "512B"). Seconds: ms, s, m, h, d ("500ms", "30s", "5m").
A plain number is taken as it is.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

SCALES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
BINARY_SCALES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
QUANTITY = re.compile(r"\s*(\d[\d_]*(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_count(value: object) -> object:
    """Whole number from "80k", "40Ki" or a number; other types are left for the field to refuse."""
    return _parse_whole(value, SCALES | BINARY_SCALES, 'a count such as 80000, "80k" or "80Ki" (81920)')


def parse_bytes(value: object) -> object:
    """Number of bytes from "5MiB", "2GB", "512B" or a number."""
    scales = {f"{unit}B": scale for unit, scale in (SCALES | BINARY_SCALES).items()} | {"": 1}
    return _parse_whole(value, scales, 'a size such as 1048576, "5MiB" or "2GB"')


def parse_seconds(value: object) -> object:
    """Seconds from "30s", "5m", "500ms" or a number."""
    if not isinstance(value, str):
        return value
    number, unit = _split(value, 'a duration such as 30, "30s", "5m" or "500ms"')
    if unit and unit not in SECONDS:
        raise ValueError(f"{value!r} has the unknown unit {unit!r}: use one of {', '.join(SECONDS)}")
    return float(number * SECONDS[unit or "s"])


def _parse_whole(value: object, scales: dict[str, int], expected: str) -> object:
    if not isinstance(value, str):
        return value
    number, unit = _split(value, expected)
    if unit not in scales:
        allowed = ", ".join(filter(None, scales))
        raise ValueError(f"{value!r} has the unknown unit {unit!r}: use one of {allowed}")
    scaled = number * scales[unit]
    if scaled != scaled.to_integral_value():
        raise ValueError(f"{value!r} is not a whole number")
    return int(scaled)


def _split(value: str, expected: str) -> tuple[Decimal, str]:
    found = QUANTITY.fullmatch(value)
    if not found:
        raise ValueError(f"{value!r} is not {expected}")
    return Decimal(found[1].replace("_", "")), found[2]


def _schema(kind: str, minimum: str) -> WithJsonSchema:
    number: dict[str, str | int] = {"type": kind, minimum: 1 if kind == "integer" else 0}
    return WithJsonSchema({"anyOf": [number, {"type": "string"}]})


Count = Annotated[int, Field(ge=1), BeforeValidator(parse_count), _schema("integer", "minimum")]
Bytes = Annotated[int, Field(ge=1), BeforeValidator(parse_bytes), _schema("integer", "minimum")]
Seconds = Annotated[
    float,
    Field(gt=0.0, allow_inf_nan=False),
    BeforeValidator(parse_seconds),
    _schema("number", "exclusiveMinimum"),
]
