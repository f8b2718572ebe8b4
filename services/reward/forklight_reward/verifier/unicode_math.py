"""Characters people type for mathematics, as LaTeX."""

from __future__ import annotations

import re

_SINGLE = {
    "\u2212": "-", "\u2013": "-", "\u2014": "-", "\u2010": "-", "\ufe63": "-", "\uff0d": "-",
    "\u00d7": r"\times ", "\u00b7": r"\cdot ", "\u22c5": r"\cdot ", "\u2217": "*", "\u00f7": "/",
    "\u2215": "/", "\u2044": "/", "\u03c0": r"\pi ", "\u221e": r"\infty ", "\u2264": r"\le ",
    "\u2265": r"\ge ", "\u2260": r"\ne ", "\u222a": r"\cup ", "\u2229": r"\cap ", "\u2208": r"\in ",
    "\u2205": r"\emptyset ", "\u00b1": r"\pm ", "\u00b0": r"^{\circ}", "\u211d": r"\mathbb{R}",
    "\u03b8": r"\theta ", "\u03b1": r"\alpha ", "\u03b2": r"\beta ", "\u03b3": r"\gamma ",
    "\u03bb": r"\lambda ", "\u03bc": r"\mu ", "\u03c6": r"\phi ", "\u03c9": r"\omega ",
    "\u222b": r"\int ", "\u2211": r"\sum ", "\u220f": r"\prod ", "\u00a0": " ", "\u2009": " ",
    "\u202f": " ", "\u200b": "", "\ufeff": "", "\u20ac": "$", "\u00a3": "$", "\uff0e": ".", "\uff0c": ",",
    "\uff08": "(", "\uff09": ")", "\uff05": "%", "\uff1d": "=",
}  # fmt: skip
_FRACTIONS = {
    "\u00bd": (1, 2), "\u2153": (1, 3), "\u2154": (2, 3), "\u00bc": (1, 4), "\u00be": (3, 4),
    "\u2155": (1, 5), "\u2156": (2, 5), "\u2157": (3, 5), "\u2158": (4, 5), "\u2159": (1, 6),
    "\u215a": (5, 6), "\u2150": (1, 7), "\u215b": (1, 8), "\u215c": (3, 8), "\u215d": (5, 8),
    "\u215e": (7, 8), "\u2151": (1, 9), "\u2152": (1, 10),
}  # fmt: skip
_RAISED = dict(
    zip(
        "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b\u207f",
        "0123456789+-n",
        strict=True,
    )
)
_LOWERED = dict(
    zip("\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089", "0123456789", strict=True)
)
_TABLE = str.maketrans(
    _SINGLE
    | {mark: rf"\frac{{{over}}}{{{under}}}" for mark, (over, under) in _FRACTIONS.items()}
    | {chr(0xFF10 + digit): str(digit) for digit in range(10)}
)
_RAISED_RUN = re.compile(f"[{''.join(_RAISED)}]+")
_LOWERED_RUN = re.compile(f"[{''.join(_LOWERED)}]+")
_ROOT = re.compile("(\u221a|\u221b)\\s*(?:\\(([^()]*)\\)|\\{([^{}]*)\\}|(\\d+(?:\\.\\d+)?|[A-Za-z]))")


def _root(match: re.Match[str]) -> str:
    index = "" if match[1] == "\u221a" else "[3]"
    return rf"\sqrt{index}{{{match[2] or match[3] or match[4]}}}"


def unicode_to_latex(text: str) -> str:
    """Replace every mathematical character by LaTeX; plain ASCII comes back as it is."""
    if text.isascii():
        return text
    text = _ROOT.sub(_root, text)
    text = _RAISED_RUN.sub(lambda match: "^{" + "".join(_RAISED[c] for c in match[0]) + "}", text)
    text = _LOWERED_RUN.sub(lambda match: "_{" + "".join(_LOWERED[c] for c in match[0]) + "}", text)
    return text.translate(_TABLE)
