"""What a check found, and the command that mends it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    PASS = "PASS"
    WARN = "WARN"
    """Works, but slower or without a feature."""
    FAIL = "FAIL"
    """A run on this machine will not work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report."""

    name: str
    level: Level
    detail: str
    fix: str = ""
    """A command, or what to do; empty when nothing is to be done."""


def judged(name: str, good: bool, detail: str, *, fix: str = "", otherwise: Level = Level.WARN) -> Finding:
    """A finding that passes or does not; the fix is told only when it does not."""
    return Finding(name=name, level=Level.PASS if good else otherwise, detail=detail, fix="" if good else fix)
