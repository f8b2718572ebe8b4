"""Static guard in front of math-verify: refuses what would cost seconds, and answers that only restate the
question.
"""

from __future__ import annotations

import re

MAX_LENGTH = 2000
MAX_DEPTH = 30
MAX_DIGITS = 400
MAX_EXPONENT = 5000
MAX_FACTORIAL = 500
MAX_BINOMIAL = 5000

_DIGITS = re.compile(rf"[0-9]{{{MAX_DIGITS + 1},}}")
_RESTATED = re.compile(r"\\(?:int|iint|iiint|oint|sum|prod|lim)(?![A-Za-z])")
_NUMERIC_TOWER = re.compile(r"[0-9)}]\^[0-9]\^|\^\{[^{}]*[0-9)]\^|\^\{[^{}]*\{[^{}]*[0-9)]\}?\^")
_EXPONENT = re.compile(r"\^\{?[+-]?([0-9]+)")
_FACTORIAL = re.compile(r"([0-9]*)([)}\]!]?)!")
_BINOMIAL = re.compile(r"\\binom\{?([0-9]*)")
_SUBSCRIPT = re.compile(r"[0-9]_")
_FORBIDDEN = re.compile(
    r"__|\\(?:input|include|def|let|write|catcode|csname|newcommand|immediate|[hv]?phantom)(?![a-z])|lambda|import|eval\(|exec\("
)


def nesting_depth(text: str) -> int:
    """Deepest level of brackets."""
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth = max(0, depth - 1)
    return deepest


def _has_big_factorial(text: str) -> bool:
    for digits, closing in _FACTORIAL.findall(text):
        if closing or not digits:
            # A letter's factorial costs nothing; a bracket or a second "!" hides how big the number is.
            if closing:
                return True
        elif len(digits) > 3 or int(digits) > MAX_FACTORIAL:
            return True
    return False


def _is_above(digits: str, limit: int) -> bool:
    return len(digits) > 6 or (bool(digits) and int(digits) > limit)


def find_danger(answer: str) -> str:
    """Why an answer must not be evaluated; empty if it may."""
    if len(answer) > MAX_LENGTH:
        return f"longer than {MAX_LENGTH} characters"
    if nesting_depth(answer) > MAX_DEPTH:
        return f"brackets nested deeper than {MAX_DEPTH}"
    if _DIGITS.search(answer):
        return f"a number of more than {MAX_DIGITS} digits"
    if _FORBIDDEN.search(answer):
        return "text that is not mathematics"
    if _SUBSCRIPT.search(answer):
        return "a number with a subscript that is no base of it"
    if _NUMERIC_TOWER.search(answer):
        return "a tower of exponents"
    if any(_is_above(digits, MAX_EXPONENT) for digits in _EXPONENT.findall(answer)):
        return f"an exponent above {MAX_EXPONENT}"
    if _has_big_factorial(answer):
        return f"a factorial of something other than a number up to {MAX_FACTORIAL}"
    if any(_is_above(digits, MAX_BINOMIAL) for digits in _BINOMIAL.findall(answer)):
        return f"a binomial coefficient above {MAX_BINOMIAL}"
    return ""


def find_restatement(gold: str, answer: str) -> str:
    """The operator an answer keeps although the reference has evaluated it; empty if there is none."""
    match = _RESTATED.search(answer)
    return match[0] if match and not _RESTATED.search(gold) else ""
