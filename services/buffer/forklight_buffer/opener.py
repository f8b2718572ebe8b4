"""Opens groups while phase and credit allow. The ledger hears of a group before Redis does."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from forklight_buffer import metrics
from forklight_buffer.context import Context
from forklight_buffer.live import Opening, Standing
from forklight_buffer.phases import PhaseControl
from forklight_buffer.prompts import Prompt, PromptBook
from forklight_buffer.reconcile import Books
from forklight_buffer.records import GroupRow
from forklight_buffer.staleness import Limits, count_admitted, find_dead_end, limits_of
from forklight_buffer.states import Phase, Purpose
from forklight_buffer.tasks import TaskMaker
from forklight_core import ids
from forklight_core.telemetry import counter

GROUPS_AT_ONCE = 64


class Opener:
    """The only place where groups begin."""

    def __init__(self, context: Context, phases: PhaseControl, books: Books, tasks: TaskMaker) -> None:
        self._context = context
        self._phases = phases
        self._books = books
        self._tasks = tasks
        self._limits: Limits = limits_of(context.run_file)
        self._unopened: deque[Opening] = deque()

    async def open_groups(self) -> int:
        """One pass; returns how many groups were opened."""
        async with self._context.turn:
            control = await asyncio.to_thread(self._context.ledger.control)
            if control.phase is not Phase.RUNNING:
                return 0
            opened = await self._open_waiting()
            opened += await self._open_rounds()
            return opened + await self._open_training()

    async def _open_training(self) -> int:
        standing = await self._context.live.standing()
        num_admitted = count_admitted(standing, self._limits, most=GROUPS_AT_ONCE)
        if not num_admitted:
            await self._pause_at_dead_end(standing)
            return 0
        ledger = self._context.ledger
        index = await asyncio.to_thread(ledger.next_index)
        position = await asyncio.to_thread(ledger.next_position)
        book = self._books[Purpose.TRAIN]
        chosen = [
            (index + offset, position + offset, book.at(position + offset)) for offset in range(num_admitted)
        ]
        rows = [self._training_row(standing, *one) for one in chosen]
        return await self.open_rows(rows, [prompt for _, _, prompt in chosen])

    def _training_row(
        self, standing: Standing, index: int, position: int, prompt: Prompt, redrive_of: str = ""
    ) -> GroupRow:
        sampling = self._context.run_file.sampling
        return GroupRow(
            group_id=ids.training_group_id(self._context.run_id, index),
            purpose=Purpose.TRAIN,
            index=index,
            position=position,
            prompt_id=prompt.prompt_id,
            kind=prompt.kind,
            size=sampling.group_size,
            window=sampling.max_new_tokens,
            opened_version=standing.version,
            opened_at=self._context.clock(),
            redrive_of=redrive_of,
        )

    async def _open_rounds(self) -> int:
        """Groups of evaluation rounds that are due."""
        opened = 0
        book = self._books.get(Purpose.EVALUATE)
        rounds = {
            round_.version: round_ for round_ in await asyncio.to_thread(self._context.ledger.rounds, 1000)
        }
        for version, num_opened in (await asyncio.to_thread(self._context.ledger.unopened_rounds)).items():
            if book is not None:
                rows = [
                    self._evaluation_row(book, version, index)
                    for index in range(num_opened, rounds[version].num_prompts)
                ]
                opened += await self.open_rows(rows, [book.at(row.position) for row in rows])
        return opened

    def _evaluation_row(self, book: PromptBook, version: int, index: int) -> GroupRow:
        prompt = book.at(index)
        return GroupRow(
            group_id=ids.evaluation_group_id(self._context.run_id, version, index),
            purpose=Purpose.EVALUATE,
            index=index,
            position=index,
            prompt_id=prompt.prompt_id,
            kind=prompt.kind,
            size=1,
            window=self._context.run_file.sampling.max_new_tokens,
            opened_version=version,
            opened_at=self._context.clock(),
        )

    async def redrive(self, group_ids: Sequence[str]) -> int:
        """New groups for the prompts of old ones; a group is redriven once. Callers hold the turn."""
        ledger, book = self._context.ledger, self._books[Purpose.TRAIN]
        standing = await self._context.live.standing()
        index = await asyncio.to_thread(ledger.next_index)
        done = await asyncio.to_thread(ledger.redriven, group_ids)
        rows: list[GroupRow] = []
        prompts: list[Prompt] = []
        for group_id in group_ids:
            old = await asyncio.to_thread(ledger.read_group, group_id)
            prompt = book.by_id(old.prompt_id) if old is not None and group_id not in done else None
            if old is not None and prompt is not None:
                rows.append(self._training_row(standing, index + len(rows), old.position, prompt, group_id))
                prompts.append(prompt)
        return await self.open_rows(rows, prompts)

    async def open_rows(self, rows: Sequence[GroupRow], prompts: Sequence[Prompt]) -> int:
        """Journal, then open."""
        openings = [await self._tasks.make_opening(*pair) for pair in zip(rows, prompts, strict=True)]
        await asyncio.to_thread(self._context.ledger.journal_groups, rows)
        self._unopened.extend(openings)
        return await self._open_waiting()

    async def _open_waiting(self) -> int:
        """What is journalled and not open yet: a pass may end between the two when Redis is away."""
        opened = 0
        while self._unopened:
            opening = self._unopened[0]
            if await self._context.live.open_group(opening):
                counter(metrics.GROUPS_OPENED).add(1, {"purpose": opening.row.purpose.name.lower()})
                opened += 1
            self._unopened.popleft()
        return opened

    async def _pause_at_dead_end(self, standing: Standing) -> None:
        """Bounds that can never be met stop the run with their name, not silently."""
        reason = find_dead_end(standing, self._limits)
        if reason:
            await self._phases.set_phase(Phase.PAUSED, reason, automatic=True)
