"""One spelling for everything that LaTeX lets people write in many ways. Meaning is not touched here."""

from __future__ import annotations

import re

from forklight_reward.verifier.unicode_math import unicode_to_latex

_WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_SPELLINGS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "leq": "le", "geq": "ge", "leqslant": "le",
    "geqslant": "ge", "neq": "ne", "infin": "infty", "varnothing": "emptyset", "tbinom": "binom",
    "dbinom": "binom", "lbrace": "{", "rbrace": "}", "lvert": "|", "rvert": "|", "ast": "cdot",
}  # fmt: skip
_PLAIN_SYMBOLS = {
    "lt": "<",
    "gt": ">",
    "colon": ":",
    "lbrack": "[",
    "rbrack": "]",
    "degree": "^{\\circ}",
    "div": "/",
}
_DROPPED = frozenset((
    "left", "right", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr", "biggl", "biggr",
    "Biggl", "Biggr", "displaystyle", "textstyle", "limits", "nolimits",
))  # fmt: skip
_SPACES = frozenset(["quad", "qquad", "thinspace", "medspace", "enspace", "space"])
_COMMAND = re.compile(r"\\([A-Za-z]+)\s*")
_SPACE_MARK = re.compile(r"(?<!\\)\\[,;:! ]|~|(?<!\\)\\(?=\s)")
_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mbox|hbox|mathrm|mathbf|mathit|mathsf|operatorname\*?)\s*\{([^{}]*)\}"
)
_SHORT_FRACTION = re.compile(r"\\frac\s*(?:(\d|[A-Za-z])|(\{[^{}]*\}))\s*(?:(\d|[A-Za-z])|(\{))")
_SHORT_BINOMIAL = re.compile(r"\\binom\s*(\d)\s*(\d)(?!\d)")
_SHORT_ROOT = re.compile(r"\\sqrt\s*(\d|[A-Za-z])")
_PLAIN_ROOT = re.compile(r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)")
_PLAIN_PI = re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])")
_PLAIN_FUNCTION = re.compile(
    r"(?<![\\A-Za-z])(sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|ln|log|exp)(?![A-Za-z])"
)
_WHITE = re.compile(r"\s+")
_CIRCLE = re.compile(r"\^\s*\{?\s*\\circ\s*\}?")


def _respell(match: re.Match[str]) -> str:
    name = match[1]
    if name in _DROPPED:
        return ""
    if name in _SPACES:
        return " "
    if name in _PLAIN_SYMBOLS:
        return _PLAIN_SYMBOLS[name]
    name = _SPELLINGS.get(name, name)
    return f"\\{name} " if name[0].isalpha() else (name if name == "|" else f"\\{name}")


def _full_fraction(match: re.Match[str]) -> str:
    over = match[2] or f"{{{match[1]}}}"
    return rf"\frac{over}{{{match[3]}}}" if match[3] else rf"\frac{over}{{"


def strip_wrappers(text: str) -> str:
    """Without math delimiters around the whole and a full stop at its end."""
    while True:
        before = text
        text = text.strip()
        for left, right in _WRAPPERS:
            inner = text[len(left) : -len(right)]
            if (
                len(text) > len(left) + len(right)
                and text.startswith(left)
                and text.endswith(right)
                and left not in inner
            ):
                text = inner
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1]
        if text == before:
            return text


def normalise(text: str) -> str:
    """The one spelling."""
    text = strip_wrappers(unicode_to_latex(text))
    if text.isalnum():
        return r"\pi" if text == "pi" else text
    text = (
        text.replace("**", "^")
        .replace(r"\%", "%")
        .replace(r"\$", "$")
        .replace("{,}", ",")
        .replace("{:}", ":")
    )
    while (flat := _TEXT.sub(r" \1 ", text)) != text:
        text = flat
    text = _SPACE_MARK.sub(" ", text)
    text = _COMMAND.sub(_respell, text)
    text = _PLAIN_PI.sub(r"\\pi ", _PLAIN_ROOT.sub(r"\\sqrt{\1}", text))
    text = _PLAIN_FUNCTION.sub(r"\\\1 ", text)
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", _SHORT_FRACTION.sub(_full_fraction, text))
    text = _SHORT_BINOMIAL.sub(r"\\binom{\1}{\2}", text)
    text = _CIRCLE.sub(r"^{\\circ}", text)
    text = _WHITE.sub(" ", text)
    text = re.sub(r"\\\{\s*\\\}", r"\\emptyset", text)
    return strip_wrappers(re.sub(r" ?([{}()\[\],=<>^_+*/]) ?", r"\1", text))
