"""Rewrites an inequality in one name as the interval it stands for, so that x < 3 and (-\\infty, 3) become
one text.
"""

from __future__ import annotations

import re

_NAME = r"[A-Za-z]"
_SIGN = r"(<|>|\\le|\\ge)"
_CHAIN = re.compile(rf"(.+?) ?{_SIGN} ?{_NAME} ?{_SIGN} ?(.+)")
_NAME_FIRST = re.compile(rf"{_NAME} ?{_SIGN} ?(.+)")
_NAME_LAST = re.compile(rf"(.+?) ?{_SIGN} ?{_NAME}")
_MEMBER = re.compile(rf"{_NAME} ?\\in ?(.+)")
_EITHER = re.compile(r"\s*(?:\bor\b|\\lor|\\vee)\s*")
_TURNED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
_ANY_SIGN = re.compile(_SIGN)


def looks_like_interval(text: str) -> bool:
    """True for an interval or a union of intervals."""
    return text[:1] in ("(", "[") and text[-1:] in (")", "]") and "," in text


def _half_line(sign: str, bound: str) -> str:
    if sign in ("<", r"\le"):
        return rf"(-\infty,{bound}{')' if sign == '<' else ']'}"
    return rf"{'(' if sign == '>' else '['}{bound},\infty)"


def _one(text: str) -> str | None:
    if match := _CHAIN.fullmatch(text):
        low, first, second, high = match.groups()
        if (first in ("<", r"\le")) != (second in ("<", r"\le")):
            return None
        if first in (">", r"\ge"):
            low, first, second, high = high, _TURNED[second], _TURNED[first], low
        return f"{'(' if first == '<' else '['}{low},{high}{')' if second == '<' else ']'}"
    if match := _NAME_FIRST.fullmatch(text):
        return _half_line(match[1], match[2])
    if match := _NAME_LAST.fullmatch(text):
        return _half_line(_TURNED[match[2]], match[1])
    return None


def strip_membership(text: str) -> str:
    """The set in "x is in a set"; any other text as it is."""
    match = _MEMBER.fullmatch(text)
    return match[1] if match else text


def as_interval(text: str) -> str | None:
    """The interval an inequality stands for; None for any other text."""
    if not _ANY_SIGN.search(text):
        return None
    parts = [_one(part) for part in _EITHER.split(text)]
    known = [part for part in parts if part is not None and len(_ANY_SIGN.findall(part)) == 0]
    return r"\cup".join(known) if known and len(known) == len(parts) else None
