"""Reads one exact number: integer, decimal, fraction, mixed, repeating, scientific, percent, base, unit."""

from __future__ import annotations

import re
from fractions import Fraction
from math import factorial

from forklight_reward.verifier.values import Number

MAX_NUMBER_LENGTH = 4000  # Python refuses to read integers of more than 4300 digits
MAX_EXPONENT = 400
MAX_FACTORIAL = 500
MAX_POWER_BITS = 4096

_FLAGS = re.ASCII
_INTEGER = re.compile(r"[+-]?\d+", _FLAGS)
_DECIMAL = re.compile(r"([+-]?)(\d*)\.(\d+)|([+-]?)(\d+)\.", _FLAGS)
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:([, ])\d{3})(?:\1\d{3})*(?:\.\d+)?", _FLAGS)
_FRACTION = re.compile(
    r"([+-]?)\\frac\{([+-]?\d+)\}\{([+-]?\d+)\}|([+-]?)\(?([+-]?\d+)\)?/\(?([+-]?\d+)\)?", _FLAGS
)
_MIXED = re.compile(r"([+-]?)(\d+)(?: ?\\frac\{(\d+)\}\{(\d+)\}| (\d+)/(\d+))|(\d+)\+(\d+)/(\d+)", _FLAGS)
_REPEATING = re.compile(r"([+-]?)(\d*)\.(\d*)(?:\\(?:overline|bar|dot) ?\{(\d+)\}|\((\d+)\))", _FLAGS)
_SCIENTIFIC = re.compile(
    r"([+-]?\d*\.?\d+)(?: ?(?:\\times|\\cdot|\*|x) ?10\^(?:\{([+-]?\d+)\}|(\d+))|[eE]([+-]?\d+))", _FLAGS
)
_POWER = re.compile(r"([+-]?)(\d+)\^(?:\{([+-]?\d+)\}|(\d+))", _FLAGS)
_FACTORIAL = re.compile(r"(\d{1,3})!", _FLAGS)
_BASE = re.compile(r"(\d[0-9A-Fa-f]*)_(?:\{(?:\\text)?\(?(\d+)\)?\}|(\d))", _FLAGS)
_UNIT = re.compile(
    r"(.*[\d.}!)]) ?((?:\^\{\\circ\}) ?[CF]?|(?<= )[A-Za-z][A-Za-z/ ]*?(?:\^\{?[23]\}?)?(?:/[A-Za-z]+)?)",
    _FLAGS,
)
_CURRENCY = re.compile(r"([+-]?)\$ ?(.*)")
_UNIT_NAMES = {
    "minutes": "min", "minute": "min", "mins": "min", "hours": "h", "hour": "h", "hr": "h", "hrs": "h",
    "seconds": "s", "second": "s", "sec": "s", "secs": "s", "meters": "m", "meter": "m", "metres": "m",
    "metre": "m", "centimeters": "cm", "centimeter": "cm", "centimetres": "cm", "kilometers": "km",
    "kilometer": "km", "grams": "g", "gram": "g", "kilograms": "kg", "kilogram": "kg",
    "degrees": "^{\\circ}", "degree": "^{\\circ}", "dollars": "$", "dollar": "$", "inches": "in",
    "inch": "in", "foot": "ft", "feet": "ft",
}  # fmt: skip
_NOT_UNITS = frozenset(
    ["x", "y", "z", "n", "k", "i", "e", "t", "r", "a", "b", "c", "d", "p", "q", "u", "v", "w"]
)
_CHANGES_MEANING = frozenset((
    "or", "and", "more", "less", "than", "to", "not", "no", "if", "is", "at", "least", "most", "but",
    "maybe", "wrong", "plus", "minus", "times", "fewer", "greater", "smaller", "about", "over", "mod",
    "either", "both", "below", "above", "under", "up", "down", "except", "unless", "when", "where",
    "of", "hundred", "hundreds", "thousand", "thousands", "million", "millions", "billion", "billions",
    "trillion", "dozen", "dozens", "half", "halves", "third", "thirds", "quarter", "quarters", "fourth",
    "fourths", "fifth", "fifths", "sixth", "sixths", "eighth", "eighths", "tenth", "tenths", "squared",
    "cubed", "factorial", "double", "triple", "negative", "choose", "pi", "sqrt", "root",
))  # fmt: skip


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value


def _quotient(over: int, under: int) -> Fraction | None:
    return Fraction(over, under) if under else None


def _decimal(text: str) -> Fraction | None:
    if _INTEGER.fullmatch(text):
        return Fraction(int(text))
    match = _DECIMAL.fullmatch(text)
    if match is None:
        return None
    if match[5] is not None:
        return _signed(match[4], Fraction(int(match[5])))
    return _signed(match[1], Fraction(int(match[2] + match[3]), 10 ** len(match[3])))


def _ratio(text: str) -> Fraction | None:
    if match := _FRACTION.fullmatch(text):
        value = _quotient(int(match[2] or match[5]), int(match[3] or match[6]))
        return None if value is None else _signed(match[1] or match[4] or "", value)
    if match := _MIXED.fullmatch(text):
        over, under = match[3] or match[5] or match[8], match[4] or match[6] or match[9]
        part = _quotient(int(over), int(under))
        return (
            None if part is None or part >= 1 else _signed(match[1] or "", int(match[2] or match[7]) + part)
        )
    return None


def _repeating(text: str) -> Fraction | None:
    match = _REPEATING.fullmatch(text)
    if match is None:
        return None
    whole, fixed, period = match[2] or "0", match[3], match[4] or match[5]
    nines = (10 ** len(period) - 1) * 10 ** len(fixed)
    return _signed(match[1], Fraction(int(whole + fixed), 10 ** len(fixed)) + Fraction(int(period), nines))


def _powered(text: str) -> Fraction | None:
    if match := _SCIENTIFIC.fullmatch(text):
        exponent = int(match[2] or match[3] or match[4])
        mantissa = _decimal(match[1])
        return (
            mantissa * Fraction(10) ** exponent
            if mantissa is not None and abs(exponent) <= MAX_EXPONENT
            else None
        )
    if match := _POWER.fullmatch(text):
        base, exponent = int(match[2]), int(match[3] or match[4])
        if base == 0 or base.bit_length() * abs(exponent) > MAX_POWER_BITS:
            return None
        return _signed(match[1], Fraction(base) ** exponent)
    match = _FACTORIAL.fullmatch(text)
    return Fraction(factorial(int(match[1]))) if match and int(match[1]) <= MAX_FACTORIAL else None


def _in_base(text: str) -> Fraction | None:
    match = _BASE.fullmatch(text)
    if match is None:
        return None
    base = int(match[2] or match[3])
    if not 2 <= base <= 16 or any(int(digit, 16) >= base for digit in match[1]):
        return None
    return Fraction(int(match[1], base))


def parse_fraction(text: str) -> Fraction | None:
    """The exact value of a plain number in normal spelling."""
    if not text or len(text) > MAX_NUMBER_LENGTH:
        return None
    if _THOUSANDS.fullmatch(text):
        return _decimal(text.replace(",", "").replace(" ", ""))
    if text.startswith("(") and text.endswith(")") and text.count("(") == 1:
        text = text[1:-1]
    for read in (_decimal, _ratio, _repeating, _powered, _in_base):
        value = read(text)
        if value is not None:
            return value
    return None


def parse_number(text: str) -> Number | None:
    """A number with an optional percent sign, currency or unit."""
    value = parse_fraction(text)
    if value is not None:
        return Number(value=value)
    if text.endswith(("%", " percent")):
        value = parse_fraction(text.removesuffix("percent").removesuffix("%").rstrip())
        return None if value is None else Number(value=value, percent=True)
    if match := _CURRENCY.fullmatch(text):
        value = parse_fraction(match[2])
        return None if value is None else Number(value=_signed(match[1], value), unit="$")
    match = _UNIT.fullmatch(text)
    if match is None or match[2].strip() in _NOT_UNITS:
        return None
    if not _CHANGES_MEANING.isdisjoint(match[2].lower().replace("/", " ").split()):
        return None
    value = parse_fraction(match[1].strip())
    unit = match[2].strip()
    return None if value is None else Number(value=value, unit=_UNIT_NAMES.get(unit.lower(), unit))
