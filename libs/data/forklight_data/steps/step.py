"""What a step is given, and what it says of a record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from forklight_data.ports import AnswerRules, Embedder, Watcher
from forklight_data.record import Json, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A record that goes no further."""

    id: str
    reason: str
    of: str = ""
    """The record or test item it repeats."""
    detail: str = ""


Outcome = Record | Dropped
Outcomes = Iterator[Outcome]


@dataclass(slots=True, kw_only=True)
class Work:
    """One step at work."""

    source: Path
    """Records, as the step before left them."""
    scratch: Path
    """A folder for what must be held and does not fit the memory."""
    rules: AnswerRules
    watcher: Watcher
    embedder: Embedder | None = None
    notes: dict[str, Json] = field(default_factory=dict)
    """What a person should know besides the counts; goes into the manifest."""
