"""Which (lineage, step) a checkpoint has behind it, and the run itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from forklight_buffer.adapters.sqlite.database import Database
from forklight_buffer.records import Control, Lineage
from forklight_core.errors import DataLossError


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Steps after `low` up to `high` of one lineage."""

    lineage: str
    low: int
    high: int


def ancestry(lineages: Mapping[str, Lineage], lineage: str, step: int) -> list[Segment]:
    """The steps a checkpoint of a lineage has learned, oldest first."""
    segments: list[Segment] = []
    name, high = lineage, step
    for _ in range(len(lineages) + 1):
        if not name:
            return segments[::-1]
        found = lineages.get(name)
        if found is None:
            raise DataLossError(f"lineage {lineage} descends from {name}, which the ledger does not have")
        if high > found.forked_at:
            segments.append(Segment(lineage=name, low=found.forked_at, high=high))
        name, high = found.parent, min(high, found.forked_at)
    raise DataLossError(f"the ancestry of lineage {lineage} runs in a circle")


def read_lineages(db: Database) -> dict[str, Lineage]:
    """Every lineage."""
    return {
        row["lineage"]: Lineage(lineage=row["lineage"], parent=row["parent"], forked_at=row["forked_at"])
        for row in db.rows("SELECT * FROM lineages")
    }


def line_of(db: Database, control: Control) -> list[Segment]:
    """What the run's newest checkpoint has behind it."""
    return ancestry(read_lineages(db), control.lineage, control.step)


def owner_of(segments: list[Segment], step: int) -> str:
    """The lineage on which a step was learned; empty when it is beyond the end."""
    return next((part.lineage for part in segments if part.low < step <= part.high), "")


def shared_steps(first: list[Segment], second: list[Segment]) -> int:
    """The last step up to which two ancestries are the same."""
    shared = 0
    for one, other in zip(first, second, strict=False):
        if (one.lineage, one.low) != (other.lineage, other.low):
            break
        shared = min(one.high, other.high)
        if one.high != other.high:
            break
    return shared
