"""Demands on an answer that can be checked exactly. Quality counts only where all of them hold.

A demand is an object with a `rule` and what it needs: {"rule": "words", "least": 50, "most": 120}. Counted
are words (between white space), characters, lines that are not empty, and bullets (lines that begin with
-, *, + or a number).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from forklight_core.errors import InvalidInputError

MOST_CONSTRAINTS = 32
MOST_TEXT = 1000
_BULLET = re.compile(r"^[ \t]*(?:[-*+]|\d{1,4}[.)])[ \t]+\S", re.MULTILINE)


class Rule(StrEnum):
    """What can be demanded."""

    WORDS = "words"
    CHARACTERS = "characters"
    LINES = "lines"
    BULLETS = "bullets"
    CONTAINS = "contains"
    LACKS = "lacks"
    STARTS = "starts"
    ENDS = "ends"
    JSON = "json"
    ASCII = "ascii"
    LOWER = "lower"
    UPPER = "upper"


COUNTED = frozenset({Rule.WORDS, Rule.CHARACTERS, Rule.LINES, Rule.BULLETS})
WITH_TEXT = frozenset({Rule.CONTAINS, Rule.LACKS, Rule.STARTS, Rule.ENDS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """One demand."""

    rule: Rule
    least: int = 0
    most: int | None = None
    text: str = ""
    ignores_case: bool = False
    keys: tuple[str, ...] = ()

    def holds(self, answer: str) -> bool:
        """Whether an answer does as demanded."""
        if self.rule in COUNTED:
            number = _count(self.rule, answer)
            return self.least <= number and (self.most is None or number <= self.most)
        if self.rule in WITH_TEXT:
            return self._matches(answer)
        match self.rule:
            case Rule.ASCII:
                return answer.isascii()
            case Rule.LOWER:
                return answer == answer.lower()
            case Rule.UPPER:
                return answer == answer.upper()
        return _is_json(answer, self.keys)

    def _matches(self, answer: str) -> bool:
        text = self.text
        if self.ignores_case:
            answer, text = answer.casefold(), text.casefold()
        match self.rule:
            case Rule.CONTAINS:
                return answer.count(text) >= max(1, self.least)
            case Rule.LACKS:
                return text not in answer
            case Rule.STARTS:
                return answer.startswith(text)
        return answer.endswith(text)

    def describe(self) -> str:
        """For evidence."""
        if self.rule in COUNTED:
            return f"{self.rule} {self.least} to {'any' if self.most is None else self.most}"
        return f"{self.rule} {self.text[:40]!r}" if self.rule in WITH_TEXT else self.rule.value


def unmet(constraints: Sequence[Constraint], answer: str) -> list[str]:
    """Those that an answer does not meet, in words."""
    return [each.describe() for each in constraints if not each.holds(answer)]


def _count(rule: Rule, answer: str) -> int:
    match rule:
        case Rule.WORDS:
            return len(answer.split())
        case Rule.CHARACTERS:
            return len(answer)
        case Rule.LINES:
            return sum(1 for line in answer.splitlines() if line.strip())
    return len(_BULLET.findall(answer))


def _is_json(answer: str, keys: Sequence[str]) -> bool:
    """One document and nothing around it; with keys, an object that has all of them."""

    def refuse(constant: str) -> object:
        raise ValueError(constant)

    try:
        found = json.loads(answer, parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return not keys or (isinstance(found, dict) and set(keys) <= set(found))


def read_constraints(given: object) -> tuple[Constraint, ...]:
    """Demands as a prompt file has them; InvalidInputError names what cannot be checked."""
    if not isinstance(given, list) or len(given) > MOST_CONSTRAINTS:
        raise InvalidInputError(
            f"judge spec: `constraints` must be a list of at most {MOST_CONSTRAINTS} objects"
        )
    return tuple(_read(each) for each in given)


def _read(given: object) -> Constraint:
    if not isinstance(given, Mapping) or given.get("rule") not in set(Rule):
        raise InvalidInputError(
            f"judge spec: {str(given)[:120]!r} is no constraint: give `rule`, one of {', '.join(Rule)}"
        )
    rule = Rule(given["rule"])
    allowed = {"rule", *_fields_of(rule)}
    unknown = sorted(str(name) for name in given if name not in allowed)
    if unknown:
        raise InvalidInputError(
            f"judge spec: constraint {rule} does not know {', '.join(unknown)}: "
            f"it takes {', '.join(sorted(allowed))}"
        )
    least, most = given.get("least", 0), given.get("most")
    if not _is_number(least) or not (most is None or _is_number(most)) or (most is not None and most < least):
        raise InvalidInputError(f"judge spec: constraint {rule} needs 0 <= least <= most, whole numbers")
    if rule in COUNTED and not least and most is None:
        raise InvalidInputError(f"judge spec: constraint {rule} demands nothing: give `least` or `most`")
    text, keys, ignores = given.get("text", ""), given.get("keys", []), given.get("ignores_case", False)
    if rule in WITH_TEXT and not (isinstance(text, str) and 0 < len(text) <= MOST_TEXT):
        raise InvalidInputError(f"judge spec: constraint {rule} needs `text` of 1 to {MOST_TEXT} characters")
    if (
        not isinstance(keys, list)
        or not all(isinstance(key, str) for key in keys)
        or not isinstance(ignores, bool)
    ):
        raise InvalidInputError(
            f"judge spec: constraint {rule}: `keys` are names, `ignores_case` is true or false"
        )
    return Constraint(rule=rule, least=least, most=most, text=text, ignores_case=ignores, keys=tuple(keys))


def _fields_of(rule: Rule) -> tuple[str, ...]:
    if rule in COUNTED:
        return "least", "most"
    if rule in WITH_TEXT:
        return ("text", "ignores_case", *(["least"] if rule is Rule.CONTAINS else []))
    return ("keys",) if rule is Rule.JSON else ()


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
