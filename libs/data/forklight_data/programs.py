"""Tests of programs as public data sets write them, as the specification of our sandbox."""

from __future__ import annotations

from forklight_core.errors import InvalidInputError
from forklight_data.record import Json, JsonObject, read_json

OURS = "mode"


def read_program(truth: Json) -> JsonObject:
    """`{inputs, outputs}`, with `fn_name` for a function; a list of `{input, output}`; or our own spec."""
    if isinstance(truth, str):
        truth = read_json(truth)
    if isinstance(truth, list):
        truth = _columns_of(truth)
    if not isinstance(truth, dict):
        raise InvalidInputError(f"the tests are a {type(truth).__name__}; inputs and outputs are needed")
    if OURS in truth:
        return truth
    inputs, outputs = truth.get("inputs"), truth.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list) or not inputs:
        raise InvalidInputError("the tests have no list of inputs and outputs")
    if len(inputs) != len(outputs):
        raise InvalidInputError(f"the tests have {len(inputs)} inputs and {len(outputs)} outputs")
    pairs = list(zip(inputs, outputs, strict=True))
    if name := truth.get("fn_name"):
        cases: list[Json] = [{"args": _arguments(given), "expected": _value(value)} for given, value in pairs]
        return {"mode": "function", "language": "python", "tests": {"entry": name, "cases": cases}}
    tests: list[Json] = [{"stdin": _lines(given), "stdout": _lines(value)} for given, value in pairs]
    return {"mode": "stdio", "language": "python", "tests": tests}


def _columns_of(tests: list[Json]) -> JsonObject:
    if not all(isinstance(test, dict) and {"input", "output"} <= set(test) for test in tests):
        raise InvalidInputError(
            "the tests are a list whose items lack input or output; assertions are not run"
        )
    rows = [test for test in tests if isinstance(test, dict)]
    return {"inputs": [row["input"] for row in rows], "outputs": [row["output"] for row in rows]}


def _lines(value: Json) -> str:
    if isinstance(value, list):
        return "\n".join(str(line) for line in value)
    if not isinstance(value, str):
        raise InvalidInputError(f"a test's input or output is a {type(value).__name__}, not text")
    return value


def _arguments(value: Json) -> Json:
    """A list is the arguments; a text holds one JSON value a line."""
    if isinstance(value, str):
        return [read_json(line) for line in value.split("\n") if line.strip()]
    if not isinstance(value, list):
        raise InvalidInputError(f"a test's arguments are a {type(value).__name__}, not a list")
    return value


def _value(value: Json) -> Json:
    """The value itself; a list of one is how function outputs are wrapped."""
    if isinstance(value, str):
        return read_json(value)
    return value[0] if isinstance(value, list) and len(value) == 1 else value
