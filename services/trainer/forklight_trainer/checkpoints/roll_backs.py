"""The record of going back: written before a folder moves, so that a crash in between does not undo it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Self

from forklight_core.errors import CheckpointError
from forklight_trainer.checkpoints.reading import read_json
from forklight_trainer.durable import canonical_json, write_file

ROLL_BACKS_FILE = "roll-backs.json"


class AskedBy(StrEnum):
    """Who wanted it."""

    ALARM = "alarm"
    PERSON = "person"


@dataclass(frozen=True, slots=True, kw_only=True)
class RollBack:
    """A run went back to an older checkpoint."""

    from_step: int
    """Where it stood."""
    to_step: int
    reason: str
    at: float
    asked_by: str = AskedBy.ALARM
    is_done: bool = False
    """The folders of what was learned since have been moved."""

    def done(self) -> Self:
        return replace(self, is_done=True)


def read_roll_backs(folder: Path) -> tuple[RollBack, ...]:
    """Oldest first; none when the run never went back."""
    path = folder / ROLL_BACKS_FILE
    if not path.exists():
        return ()
    try:
        found = read_json(path)["roll_backs"]
        if not isinstance(found, list):
            raise TypeError("roll_backs is no list")
        return tuple(RollBack(**each) for each in found)
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is no record of roll backs ({error!r}): restore it, or remove it"
        ) from error


def write_roll_backs(folder: Path, roll_backs: Sequence[RollBack]) -> None:
    write_file(
        folder / ROLL_BACKS_FILE, canonical_json({"roll_backs": [asdict(each) for each in roll_backs]})
    )
