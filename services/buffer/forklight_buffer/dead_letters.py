"""Dead letters for people: listed, and redriven as new groups for their prompts. Terminal states stay."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from forklight.v1 import buffer_pb2
from forklight_buffer.context import Context
from forklight_buffer.opener import Opener
from forklight_buffer.states import Phase, Purpose
from forklight_core.errors import NotFoundError, PreconditionError

DEFAULT_LIMIT = 100


class DeadLetters:
    """What the reaper buried."""

    def __init__(self, context: Context, opener: Opener) -> None:
        self._context = context
        self._opener = opener

    async def list_letters(self, limit: int) -> list[buffer_pb2.DeadLetter]:
        """The newest first."""
        found = await self._context.live.dead_letters()
        letters = [buffer_pb2.DeadLetter.FromString(body) for body in found.values()]
        letters.sort(key=lambda letter: (-letter.at, letter.id))
        return letters[: limit or DEFAULT_LIMIT]

    async def redrive(self, letter_ids: Sequence[str]) -> int:
        """One new group for each training group among the letters; all letters when none is named."""
        context = self._context
        async with context.turn:
            control = await asyncio.to_thread(context.ledger.control)
            if control.phase is not Phase.RUNNING:
                raise PreconditionError(
                    f"the run is {control.phase.name.lower()}: nothing new is opened; resume it, then redrive"
                )
            found = await context.live.dead_letters()
            unknown = [letter for letter in letter_ids if letter not in found]
            if unknown:
                raise NotFoundError(f"dead letter {unknown[0]!r} does not exist; list them first")
            chosen = {letter: found[letter] for letter in (letter_ids or found)}
            groups = await self._training_groups(chosen.values())
            redriven = await self._opener.redrive(sorted(groups))
            await context.live.drop_dead_letters(sorted(chosen))
        await context.record("redrive", f"{len(chosen)} dead letters, {redriven} new groups")
        return redriven

    async def _training_groups(self, bodies: Iterable[bytes]) -> set[str]:
        """Groups to open anew; a held-out prompt is asked again at the next round anyway."""
        groups = set()
        for body in bodies:
            group_id = buffer_pb2.DeadLetter.FromString(body).group_id
            row = await asyncio.to_thread(self._context.ledger.read_group, group_id)
            if row is not None and row.purpose is Purpose.TRAIN:
                groups.add(group_id)
        return groups
