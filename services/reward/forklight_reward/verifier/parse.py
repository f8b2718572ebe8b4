"""Reads exact values other than single numbers: tuples, sets, intervals and their unions, choices, the
empty set.
"""

from __future__ import annotations

import re
from fractions import Fraction

from forklight_reward.verifier.numbers import parse_fraction, parse_number
from forklight_reward.verifier.values import Choice, Collection, Nothing, Number, Piece, Region, Shape, Value

MAX_ITEMS = 200

_CHOICE = re.compile(r"\(?([A-J])\)?|([A-J])\.")
_OR = re.compile(r"\s*(?:,|;|\bor\b|\band\b)\s*")
_ASSIGNED = re.compile(r"([A-Za-z](?:_(?:\w|\{\w+\}))?)=(.*)")
_PLUS_MINUS = re.compile(r"(.*?)\\pm ?(.+)")
_INFINITY = re.compile(r"([+-]?)(?:\\infty|oo|inf)")


def split_top(text: str, separator: str) -> list[str]:
    """Split where no bracket is open."""
    parts: list[str] = []
    depth = start = 0
    for index, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif depth == 0 and text.startswith(separator, index):
            parts.append(text[start:index].strip())
            start = index + len(separator)
    return [*parts, text[start:].strip()]


def parse_items(texts: list[str]) -> tuple[Fraction, ...] | None:
    """Numbers without units; None if one is anything else."""
    if not 1 <= len(texts) <= MAX_ITEMS:
        return None
    values = [parse_fraction(text.strip()) for text in texts]
    known = tuple(value for value in values if value is not None)
    return known if len(known) == len(values) else None


def parse_end(text: str) -> tuple[bool, Fraction | None]:
    """(is readable, value); None is infinity on the side where it stands."""
    text = text.strip()
    if _INFINITY.fullmatch(text):
        return True, None
    value = parse_fraction(text)
    return value is not None, value


def parse_piece(text: str) -> Piece | None:
    """One interval such as (-\\infty,3]."""
    if len(text) < 5 or text[0] not in "([" or text[-1] not in ")]":
        return None
    ends = split_top(text[1:-1], ",")
    if (
        len(ends) != 2
        or ends[0].startswith("+\\infty")
        or ends[0] == "\\infty"
        or ends[1].startswith("-\\infty")
    ):
        return None
    low_known, low = parse_end(ends[0])
    high_known, high = parse_end(ends[1])
    if not (low_known and high_known):
        return None
    # An end at infinity is open however it was written.
    return Piece(
        low=low, high=high, low_open=low is None or text[0] == "(", high_open=high is None or text[-1] == ")"
    )


def parse_region(text: str) -> Region | None:
    """A union of intervals, or one that cannot be mistaken for a pair."""
    parts = split_top(text, "\\cup")
    pieces = [parse_piece(part) for part in parts]
    if len(parts) == 1 and "\\infty" not in text and (text[:1], text[-1:]) not in (("(", "]"), ("[", ")")):
        return None
    known = [piece for piece in pieces if piece is not None]
    return Region(pieces=frozenset(known)) if known and len(known) == len(pieces) else None


def parse_collection(text: str) -> Collection | None:
    """Several numbers in or without brackets; \\pm gives a set of two."""
    if text.startswith("\\{") and text.endswith("\\}"):
        items = parse_items(split_top(text[2:-2], ","))
        return None if items is None else Collection(shape=Shape.SET, items=items)
    if len(text) > 2 and text[0] + text[-1] in ("()", "[]"):
        parts = split_top(text[1:-1], ",")
        items = parse_items(parts) if len(parts) > 1 else None
        shape = Shape.TUPLE if text[0] == "(" else Shape.BRACKETS
        return None if items is None else Collection(shape=shape, items=items)
    if match := _PLUS_MINUS.fullmatch(text):
        middle, spread = parse_fraction(match[1].strip() or "0"), parse_fraction(match[2])
        if middle is None or spread is None:
            return None
        return Collection(shape=Shape.SET, items=(middle - spread, middle + spread))
    return parse_bare(text)


def parse_bare(text: str) -> Collection | None:
    """Alternatives such as 1, 2 or x=1 or x=2 (one name only)."""
    parts = _OR.split(text)
    if len(parts) < 2:
        return None
    matches = [_ASSIGNED.fullmatch(part) for part in parts]
    names = {match[1] if match else "" for match in matches}
    if len(names) != 1:
        return None
    items = parse_items([match[2] if match else part for match, part in zip(matches, parts, strict=True)])
    return None if items is None else Collection(shape=Shape.BARE, items=items)


def parse_value(text: str) -> Value | None:
    """The exact value of a text in normal spelling, or None where only mathematics can tell."""
    if not text:
        return None
    number: Number | None = parse_number(text)
    if number is not None:
        return number
    if text == "\\emptyset":
        return Nothing()
    if match := _CHOICE.fullmatch(text):
        return Choice(letter=match[1] or match[2])
    return parse_region(text) or parse_collection(text)
