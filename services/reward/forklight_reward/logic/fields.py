"""Typed reading of specifications: a field of another type is InvalidInputError, never a wrong answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

from forklight_core.errors import InvalidInputError
from forklight_reward.logic.task import Json, Spec


def refuse(key: str, wanted: str) -> NoReturn:
    """Say which field is wrong."""
    raise InvalidInputError(f"logic specification: {key!r} is not {wanted}; write it with `forklight logic`")


def whole(spec: Spec, key: str) -> int:
    """An integer."""
    value = spec.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        refuse(key, "an integer")
    return value


def text(spec: Spec, key: str) -> str:
    """A string."""
    value = spec.get(key)
    if not isinstance(value, str):
        refuse(key, "text")
    return value


def items(spec: Spec, key: str) -> Sequence[Json]:
    """A list of anything."""
    return _items(spec.get(key), key)


def texts(spec: Spec, key: str) -> list[str]:
    """A list of strings."""
    return _texts(spec.get(key), key)


def wholes(spec: Spec, key: str) -> list[int]:
    """A list of integers."""
    return _wholes(spec.get(key), key)


def text_rows(spec: Spec, key: str) -> list[list[str]]:
    """A list of lists of strings."""
    return [_texts(row, key) for row in items(spec, key)]


def whole_rows(spec: Spec, key: str) -> list[list[int]]:
    """A list of lists of integers."""
    return [_wholes(row, key) for row in items(spec, key)]


def table(value: Json | None, key: str) -> Spec:
    """An object."""
    if not isinstance(value, Mapping):
        refuse(key, "an object")
    return value


def _items(value: Json | None, key: str) -> Sequence[Json]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        refuse(key, "a list")
    return value


def _texts(value: Json | None, key: str) -> list[str]:
    found = [each for each in _items(value, key) if isinstance(each, str)]
    if len(found) != len(_items(value, key)):
        refuse(key, "a list of texts")
    return found


def _wholes(value: Json | None, key: str) -> list[int]:
    found = [each for each in _items(value, key) if isinstance(each, int) and not isinstance(each, bool)]
    if len(found) != len(_items(value, key)):
        refuse(key, "a list of integers")
    return found
