"""Exact values: what the fast path can be sure of. Numbers are fractions, never floats."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction


class Shape(StrEnum):
    """How a collection was written."""

    TUPLE = "tuple"
    BRACKETS = "brackets"  # [1,2]: a closed interval, a list or a vector
    SET = "set"
    BARE = "bare"  # 1, 2: no brackets


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A rational number; `unit` is empty without one."""

    value: Fraction
    unit: str = ""
    percent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """Several numbers."""

    shape: Shape
    items: tuple[Fraction, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One interval; None is infinity."""

    low: Fraction | None
    high: Fraction | None
    low_open: bool
    high_open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A union of intervals."""

    pieces: frozenset[Piece]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A letter of a multiple choice question."""

    letter: str


@dataclass(frozen=True, slots=True)
class Nothing:
    """The empty set."""


Value = Number | Collection | Region | Choice | Nothing


def same_number(gold: Number, answer: Number) -> bool:
    """Equal exactly; a percent sign may be read as a unit or as a hundredth; units must agree where both
    have one.
    """
    if gold.unit and answer.unit and gold.unit != answer.unit:
        return False
    if gold.value == answer.value:
        return True
    if gold.percent == answer.percent:
        return False
    return gold.value / 100 == answer.value if gold.percent else gold.value == answer.value / 100


def same_collection(gold: Collection, answer: Collection) -> bool:
    """Order counts for tuples, not for sets and lists without brackets; (0,1) and [0,1] may be intervals."""
    shapes = {gold.shape, answer.shape}
    if shapes <= {Shape.SET, Shape.BARE} and Shape.SET in shapes:
        return set(gold.items) == set(answer.items)
    if shapes == {Shape.BARE}:
        return sorted(gold.items) == sorted(answer.items)
    if Shape.SET in shapes:
        return False
    if shapes == {Shape.TUPLE, Shape.BRACKETS} and len(gold.items) == 2:
        return False
    return gold.items == answer.items


def as_region(value: Value) -> Region | None:
    """A pair in brackets read as an interval."""
    if isinstance(value, Region):
        return value
    if (
        isinstance(value, Collection)
        and len(value.items) == 2
        and value.shape in (Shape.TUPLE, Shape.BRACKETS)
    ):
        is_open = value.shape is Shape.TUPLE
        low, high = value.items
        return Region(pieces=frozenset([Piece(low=low, high=high, low_open=is_open, high_open=is_open)]))
    return None


def same_value(gold: Value, answer: Value) -> bool | None:
    """Equal or not; None where the kinds cannot be compared with certainty."""
    if isinstance(gold, Number) and isinstance(answer, Number):
        return same_number(gold, answer)
    if isinstance(gold, Collection) and isinstance(answer, Collection):
        return same_collection(gold, answer)
    if isinstance(gold, Region) or isinstance(answer, Region):
        left, right = as_region(gold), as_region(answer)
        return left == right if left is not None and right is not None else False
    for one, other in ((gold, answer), (answer, gold)):
        if isinstance(one, Collection) and isinstance(other, Number):
            return None if len(set(one.items)) == 1 else False
    return gold == answer
