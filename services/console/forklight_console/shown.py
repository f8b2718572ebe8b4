"""Text of strangers, made visible: what would hide, reorder or overwrite other text is shown as its code."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from urllib.parse import urlencode

from forklight_console.page import format_time

HIDING = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
KEPT = {"\n", "\t"}


def visible(text: str, *, most: int | None = None) -> str:
    """Controls, bidirectional marks, zero widths and unassigned characters as \\uXXXX; the rest as it is."""
    cut = text if most is None or len(text) <= most else text[:most] + "..."
    if cut.isascii() and cut.isprintable():
        return cut
    return "".join(each if each in KEPT or not _hides(each) else _code(each) for each in cut)


def visible_token(text: str) -> str:
    """The same for one token: a line break is marked as well, a tab too."""
    return visible(text).replace("\n", "\u21b5\n").replace("\t", "\u21e5\t")


def _hides(character: str) -> bool:
    return unicodedata.category(character) in HIDING


def _code(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def format_moment(at: float) -> str:
    """A time, or nothing where there is none."""
    return format_time(at) if at else "-"


def format_number(value: float | None, digits: int = 4) -> str:
    """A figure short enough for a table."""
    return "-" if value is None else f"{value:.{digits}g}"


def enum_word(name: str, prefix: str) -> str:
    """ "trained" from SAMPLE_STATE_TRAINED."""
    return name.removeprefix(prefix).lower()


def page_link(values: Mapping[str, str], **changes: str) -> str:
    """The same address with some fields changed; empty ones are left out."""
    kept = {name: value for name, value in {**values, **changes}.items() if value}
    return f"?{urlencode(kept)}"
