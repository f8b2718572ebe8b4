"""Arithmetic as text, without eval: a tokenizer, and an exact evaluator that uses no recursion."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction

from forklight_reward.logic.reading import plain

TOKEN = re.compile(r"\s*(?:([0-9]{1,20})|([-+*/()]))")
PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
MOST_TOKENS = 200


def tokenize(text: str) -> list[str] | None:
    """Numbers, operators and brackets; None for anything else, or for too many of them."""
    written = plain(text)
    if written is None:
        return None
    tokens: list[str] = []
    place = 0
    while place < len(written):
        match = TOKEN.match(written, place)
        if match is None or len(tokens) >= MOST_TOKENS:
            return None
        if match.group(1) is not None and tokens and tokens[-1][0].isdigit():
            return None
        tokens.append(match.group(1) or match.group(2))
        place = match.end()
    return tokens


def numbers_in(tokens: Iterable[str]) -> list[int]:
    """The numbers of an expression in their order."""
    return [int(token) for token in tokens if token[0].isdigit()]


def evaluate(tokens: Iterable[str]) -> Fraction | None:
    """The exact value with the usual precedence; None for a wrong form or a division by zero. No signs."""
    values: list[Fraction] = []
    operators: list[str] = []
    wants_value = True
    for token in tokens:
        if token[0].isdigit():
            if not wants_value:
                return None
            values.append(Fraction(int(token)))
            wants_value = False
        elif token == "(":
            if not wants_value:
                return None
            operators.append(token)
        elif wants_value:
            return None
        elif token == ")":
            if not close(values, operators):
                return None
        else:
            if not reduce_to(values, operators, PRECEDENCE[token]):
                return None
            operators.append(token)
            wants_value = True
    if wants_value or not reduce_to(values, operators, 1) or operators:
        return None
    return values[0]


def close(values: list[Fraction], operators: list[str]) -> bool:
    """Work off everything back to the open bracket."""
    if not reduce_to(values, operators, 1) or not operators:
        return False
    operators.pop()
    return True


def reduce_to(values: list[Fraction], operators: list[str], precedence: int) -> bool:
    """Work off operators that bind at least as tightly; stops at an open bracket."""
    while operators and operators[-1] != "(" and PRECEDENCE[operators[-1]] >= precedence:
        right = values.pop()
        left = values.pop()
        value = apply(operators.pop(), left, right)
        if value is None:
            return False
        values.append(value)
    return True


def apply(operator: str, left: Fraction, right: Fraction) -> Fraction | None:
    """One step."""
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    return left / right if right else None
