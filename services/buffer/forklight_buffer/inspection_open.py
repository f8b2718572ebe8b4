"""Search over open samples: as many as there is credit for, read from Redis for the moment."""

from __future__ import annotations

import asyncio

from forklight_buffer.context import Context
from forklight_buffer.inspection_columns import Columns, Hits
from forklight_buffer.inspection_search import Search, domains_of
from forklight_buffer.live import LiveGroup
from forklight_buffer.lookups import Ended, Found
from forklight_buffer.reconcile import Books
from forklight_buffer.rows import row_of_live

GROUPS_AT_ONCE = 64


async def find_open(context: Context, books: Books, wanted: Search) -> tuple[Hits, dict[str, Found]]:
    """A page of open samples; their `ended_at` is since when they stand where they do."""
    columns, found = Columns(context.run_id), dict[str, Found]()
    names = await context.live.live_groups()
    if wanted.bounds.group_id:
        names = [name for name in names if name == wanted.bounds.group_id]
    for start in range(0, len(names), GROUPS_AT_ONCE):
        read = (context.live.read_group(name) for name in names[start : start + GROUPS_AT_ONCE])
        for group in await asyncio.gather(*read):
            if group is not None:
                found |= _open_samples(group)
    rows = [_ended(each) for each in found.values()]
    columns.add(rows, domains_of(books, rows))
    return columns.find(wanted.bounds, wanted.order, wanted.after, wanted.limit), found


def _open_samples(group: LiveGroup) -> dict[str, Found]:
    rows = (row_of_live(group, sample) for sample in group.samples if not sample.state.terminal)
    return {row.sample_id: Found(row=row, kind=group.kind) for row in rows}


def _ended(found: Found) -> Ended:
    row = found.row
    return Ended(
        sample_id=row.sample_id,
        reward=row.reward,
        ended_at=row.ended_at,
        num_response_tokens=row.num_response_tokens,
        step=row.step,
        prompt_id=row.prompt_id,
        reason=row.reason,
        kind=found.kind,
        state=int(row.state),
        finish_reason=row.finish_reason,
        purpose=int(row.purpose),
    )
