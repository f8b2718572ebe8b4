"""Compares what a program gave with what it should have given.

Runs outside the jail, on bounded plain data.
"""

from __future__ import annotations

import json
import math

from pydantic import JsonValue

RELATIVE_TOLERANCE = 1e-9
ABSOLUTE_TOLERANCE = 1e-12


class UnreadableValueError(ValueError):
    """What the program sent is not a plain, finite JSON value."""


def _refuse_constant(name: str) -> float:
    raise UnreadableValueError(f"{name} is not a JSON value")


def read_json(line: bytes) -> JsonValue:
    """Decode one line; NaN, infinities, bad UTF-8, endless nesting and huge integers are refused."""
    try:
        value: JsonValue = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UnreadableValueError(str(error)[:200]) from error
    return value


def same_tokens(output: bytes, expected: str) -> bool:
    """Equal as sequences of tokens between white space."""
    return output.split() == expected.encode("utf-8", "surrogatepass").split()


def same_json(value: JsonValue, expected: JsonValue) -> bool:
    """Equal in type and value: true is not 1, 1.0 is not 1; where a float is expected an integer may stand
    for it.
    """
    if isinstance(expected, float):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return close(value, expected)
    if type(value) is not type(expected):
        return False
    if isinstance(expected, list) and isinstance(value, list):
        return len(value) == len(expected) and all(map(same_json, value, expected))
    if isinstance(expected, dict) and isinstance(value, dict):
        return value.keys() == expected.keys() and all(
            same_json(value[key], expected[key]) for key in expected
        )
    return value == expected


def close(value: float, expected: float) -> bool:
    """Equal up to rounding."""
    try:
        return math.isclose(value, expected, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
    except OverflowError:
        return False
