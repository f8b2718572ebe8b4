"""Takes what is a record, once by its id."""

from __future__ import annotations

from collections.abc import Iterator

from forklight_core.errors import InvalidInputError
from forklight_data.reading.lines import read_lines
from forklight_data.recipe import SchemaPart
from forklight_data.record import read_record
from forklight_data.seen import SeenIds
from forklight_data.steps.step import Dropped, Outcome, Work


def check_schema(work: Work, part: SchemaPart) -> Iterator[Outcome]:
    """Row by row."""
    seen = SeenIds()
    for number, row in enumerate(read_lines(work.source, frozenset()), start=1):
        place = f"line {row.where.rpartition(':')[2]}"
        if row.fields is None:
            yield Dropped(id=place, reason="not_a_record", detail=row.problem)
            continue
        name = row.fields.get("id")
        try:
            record = read_record(row.fields)
        except InvalidInputError as error:
            yield Dropped(id=str(name)[:200] if name else place, reason="not_a_record", detail=str(error))
            continue
        earlier = seen.first_place(record.id, number)
        if earlier is not None:
            yield Dropped(
                id=record.id, reason="repeated_id", of=record.id, detail=f"{place}, taken by row {earlier}"
            )
            continue
        yield record
