"""Compares two LaTeX texts with math-verify.

Runs only inside a worker process: it may hang, and then it is killed.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import verify
from sympy import Basic, Eq, I, MatrixBase, Symbol

_CONFIG = NormalizationConfig(
    basic_latex=True, units=True, malformed_operators=True, nits=True, boxed="none", equations=False
)
_CONVERSION = ConversionConfig(lowercase_symbols=False)  # A is not a
_DECIMAL = re.compile(r"(?<![0-9.])([0-9]*)\.([0-9]+)(?![0-9])", re.ASCII)
_DEGREES = re.compile(r"([0-9]+(?:\.[0-9]+)?)\^\{\\circ\}")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_IMAGINARY = re.compile(r"(?<![\\A-Za-z])i(?![A-Za-z])")
_DOTLESS = re.compile(r"\\(?:imath|jmath)")

logging.getLogger("math_verify").setLevel(logging.ERROR)


def _exact_decimal(match: re.Match[str]) -> str:
    whole, part = match[1] or "0", match[2]
    return rf"(\frac{{{int(whole + part)}}}{{{10 ** len(part)}}})"


def prepare(text: str) -> str:
    """Decimals as exact fractions, so that nothing is compared after rounding; degrees in an angle as
    radians.
    """
    if _TRIGONOMETRIC.search(text):
        text = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    text = _DOTLESS.sub("i", text.replace(r"^{\circ}", ""))
    return _DECIMAL.sub(_exact_decimal, text)


def read(text: str) -> Basic | MatrixBase | None:
    """The sympy object of a text, with i as the imaginary unit; None if it is not mathematics."""
    prepared = normalize_latex(prepare(text), config=_CONFIG)
    is_complex = _IMAGINARY.search(prepared) is not None
    parsed: Any
    try:
        parsed = latex2sympy(
            prepared,
            is_real=not is_complex,
            convert_degrees=False,
            normalization_config=None,
            conversion_config=_CONVERSION,
        )
    except (
        Exception
    ):  # the parser raises whatever its grammar and sympy raise; unreadable is an answer, not a fault
        return None
    if is_complex and isinstance(parsed, Basic):
        parsed = parsed.subs({symbol: I for symbol in parsed.free_symbols if symbol.name == "i"})
    if isinstance(parsed, Basic):  # a name that prints as the base of logarithms does
        parsed = parsed.subs({symbol: Symbol("E_") for symbol in parsed.free_symbols if symbol.name == "E"})
    return parsed if isinstance(parsed, (Basic, MatrixBase)) else None


def are_equal(gold: str, answer: str) -> bool | None:
    """Whether two texts mean the same; None if one cannot be read."""
    left, right = read(gold), read(answer)
    if left is None or right is None:
        return None
    if _is_loose_equation(left, right) or _is_loose_equation(right, left):
        return False
    if _is_false_equation(right):
        return False
    return bool(verify(left, right, timeout_seconds=None))


def _is_loose_equation(left: Basic | MatrixBase, right: Basic | MatrixBase) -> bool:
    """An equation in several names is not the number at its right: x + y = 7 is not 7."""
    if isinstance(right, Eq) and not isinstance(left, Eq) and getattr(left, "is_number", False):
        return not isinstance(right.lhs, Symbol) and bool(right.lhs.free_symbols)
    return False


def _is_false_equation(answer: Basic | MatrixBase) -> bool:
    """Numbers on both sides that differ: 6 = 5 is not 5."""
    if not isinstance(answer, Eq) or answer.free_symbols:
        return False
    return not bool(verify(answer.lhs, answer.rhs, timeout_seconds=None))
