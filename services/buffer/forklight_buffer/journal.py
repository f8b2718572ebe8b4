"""Decided, then journalled, then forgotten: a script decides a terminal state, this writes it to the ledger,
and only then may Redis forget the group. A crash between any two of these is harmless: every step is
idempotent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from forklight_buffer.context import Context
from forklight_buffer.endings import announce_conflicts, announce_endings, count_dropped_tokens
from forklight_buffer.live import Discard, LiveGroup
from forklight_buffer.records import SampleRow
from forklight_buffer.rows import row_of_live
from forklight_buffer.states import Purpose

GROUPS_AT_ONCE = 64


class Journal:
    """Moves terminal samples from Redis to the ledger."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = asyncio.Lock()
        self.rounds_moved = False

    async def flush(self) -> int:
        """Journal everything that has ended so far; returns how many samples were new to the ledger."""
        num_new = 0
        async with self._lock:
            while group_ids := await self._context.live.unjournalled(GROUPS_AT_ONCE):
                num_new += await self._journal_groups(group_ids)
        if num_new:
            self._context.credit.notify()
        return num_new

    async def _journal_groups(self, group_ids: list[str]) -> int:
        live, ledger = self._context.live, self._context.ledger
        found = {group_id: await live.read_group(group_id) for group_id in group_ids}
        rows = [row for group in found.values() if group is not None for row in _terminal_rows(group)]
        entered = await asyncio.to_thread(ledger.enter_samples, rows)
        await self._discard(
            [item for group in found.values() if group is not None for item in group.discards]
        )
        for group_id, group in found.items():
            known = (0, 0) if group is None else (group.num_terminal, len(group.trash))
            await live.forget_group(group_id, *known)
            self.rounds_moved |= group is not None and group.purpose is Purpose.EVALUATE
        announce_endings(entered.new, (await live.standing()).version)
        announce_conflicts(entered.conflicts)
        return len(entered.new)

    async def _discard(self, discards: Sequence[Discard]) -> None:
        """Blobs of segments whose samples went on or ended: the ledger keeps their names until deletion."""
        if discards:
            names = [item.payload_id for item in discards]
            await asyncio.to_thread(self._context.ledger.discard_payloads, names, self._context.clock())
        for item in discards:
            if item.reason:
                count_dropped_tokens(item.num_tokens, item.reason)


def _terminal_rows(group: LiveGroup) -> list[SampleRow]:
    return [row_of_live(group, sample) for sample in group.samples if sample.state.terminal]
