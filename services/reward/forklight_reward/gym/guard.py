"""Static guard in front of the scorers that evaluate an answer: only data and plain formulas come through.

The jail is the wall; this keeps a program from forging what the jail reports, because it never becomes one.
"""

from __future__ import annotations

import re

MOST_CHARACTERS = 4096
_FUNCTIONS = frozenset(
    ("sin", "cos", "tan", "exp", "log", "ln", "sqrt", "asin", "acos", "atan", "sinh", "cosh", "tanh")
)
_ALPHABET = re.compile(r"[0-9A-Za-z_\s+\-*/^().,\[\]'\":=|]*", re.ASCII)
_CALLED = re.compile(r"([A-Za-z_]\w*)\s*\(", re.ASCII)
_OTHER_CALL = re.compile(r"[\])'\"]\s*\(|[0-9]\s*\(")
_ATTRIBUTE = re.compile(r"\.\s*[A-Za-z_]")
_KEYWORDS = re.compile(
    r"\b(?:lambda|import|for|while|if|else|yield|await|async|def|class|exec|eval|print|with|as)\b"
)


def find_program(answer: str) -> str:
    """Why an answer must not be evaluated; empty if it may."""
    if len(answer) > MOST_CHARACTERS:
        return f"longer than {MOST_CHARACTERS} characters"
    if not _ALPHABET.fullmatch(answer):
        return "characters that are neither of data nor of a formula"
    if "__" in answer or _ATTRIBUTE.search(answer):
        return "a name of something's inside"
    if _KEYWORDS.search(answer):
        return "a word of a program"
    if _OTHER_CALL.search(answer) or any(name not in _FUNCTIONS for name in _CALLED.findall(answer)):
        return "a call of something other than a plain function"
    return ""
