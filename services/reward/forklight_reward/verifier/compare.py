"""The exact fast path: decides only when sure, else returns None and leaves the pair to math-verify."""

from __future__ import annotations

import re
from dataclasses import dataclass

from forklight_reward.verifier.inequality import as_interval, looks_like_interval, strip_membership
from forklight_reward.verifier.normalise import normalise
from forklight_reward.verifier.parse import parse_value
from forklight_reward.verifier.values import same_value

_PLAIN_INTEGER = re.compile(r"\s*[+-]?[0-9]{1,400}\s*")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\{[a-z*]+\}")
_ASSIGNED = re.compile(r"([A-Za-z](?:_(?:\w|\{\w+\}))?(?:\([a-z](?:,[a-z])*\))?|\\[a-z]+ ?)=([^=]+)")
_SYMBOL_RUN = frozenset("abcdkmnpqrstuvwxyz")
_MATHEMATICAL = frozenset((
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "log",
    "exp", "mod", "gcd", "lcm", "max", "min", "det", "and", "inf", "lim", "frac", "sqrt",
))  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What the fast path says, and the two texts in the spelling it used."""

    equal: bool | None
    how: str
    gold: str
    answer: str


def is_prose(text: str) -> bool:
    """True when the text holds words, not only mathematics: words would be read as products of letters."""
    for word in _WORD.findall(_ENVIRONMENT.sub("", text)):
        is_product = len(word) == 3 and _SYMBOL_RUN.issuperset(word)
        if word.lower() not in _MATHEMATICAL and not is_product:
            return True
    return False


def strip_assignment(gold: str, answer: str) -> tuple[str, str]:
    """5 and x=5 name the same value; x=5 and y=5 do not, so two names stay."""
    left, right = _ASSIGNED.fullmatch(gold), _ASSIGNED.fullmatch(answer)
    if left and right and left[1] == right[1]:
        return left[2], right[2]
    if left and "=" not in answer:
        return left[2], answer
    if right and "=" not in gold:
        return gold, right[2]
    return gold, answer


def align_intervals(gold: str, answer: str) -> tuple[str, str]:
    """Write an inequality as an interval where the other side is one."""
    gold, answer = strip_membership(gold), strip_membership(answer)
    if looks_like_interval(gold):
        return gold, as_interval(answer) or answer
    if looks_like_interval(answer):
        return as_interval(gold) or gold, answer
    return gold, answer


def compare_exact(gold: str, answer: str) -> Comparison:
    """True, False, or None when only mathematics can tell."""
    if _PLAIN_INTEGER.fullmatch(gold) and _PLAIN_INTEGER.fullmatch(answer):
        return Comparison(equal=int(gold) == int(answer), how="integers", gold=gold, answer=answer)
    left, right = normalise(gold), normalise(answer)
    if not left or not right:
        return Comparison(equal=False, how="empty", gold=left, answer=right)
    if left == right:
        return Comparison(equal=True, how="same text", gold=left, answer=right)
    left, right = align_intervals(*strip_assignment(left, right))
    gold_value, answer_value = parse_value(left), parse_value(right)
    if gold_value is not None and answer_value is not None:
        equal = same_value(gold_value, answer_value)
        return Comparison(equal=equal, how="exact values", gold=left, answer=right)
    if is_prose(left) or is_prose(right):
        return Comparison(equal=left.casefold() == right.casefold(), how="words", gold=left, answer=right)
    return Comparison(equal=left == right or None, how="same text", gold=left, answer=right)
