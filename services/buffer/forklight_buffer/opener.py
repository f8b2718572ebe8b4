"""Opens groups while phase and credit allow. The ledger hears of a group before Redis does."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from forklight_buffer import metrics
from forklight_buffer.context import Context
from forklight_buffer.curriculum.order import FileOrder, PromptOrder
from forklight_buffer.live import Opening, Standing
from forklight_buffer.phases import PhaseControl, is_last_evaluation
from forklight_buffer.prompts import Prompt, PromptBook
from forklight_buffer.reconcile import Books
from forklight_buffer.records import GroupRow, Round
from forklight_buffer.staleness import Limits, count_admitted, find_dead_end, limits_of
from forklight_buffer.states import Phase, Purpose
from forklight_buffer.tasks import TaskMaker
from forklight_core import ids
from forklight_core.telemetry import counter

GROUPS_AT_ONCE = 64


class Opener:
    """The only place where groups begin."""

    def __init__(
        self,
        context: Context,
        phases: PhaseControl,
        books: Books,
        tasks: TaskMaker,
        *,
        order: PromptOrder | None = None,
    ) -> None:
        self._context = context
        self._phases = phases
        self._books = books
        self._order = order or FileOrder(books[Purpose.TRAIN])
        self._tasks = tasks
        self._unopened: deque[Opening] = deque()

    async def open_groups(self) -> int:
        """One pass; returns how many groups were opened."""
        async with self._context.turn:
            control = await asyncio.to_thread(self._context.ledger.control)
            is_running = control.phase is Phase.RUNNING
            if not is_running and not is_last_evaluation(control, self._context.run_file):
                return 0
            opened = await self._open_waiting()
            opened += await self._open_rounds()
            return opened + (await self._open_training() if is_running else 0)

    async def _open_training(self) -> int:
        standing = await self._context.live.standing()
        limits = limits_of(self._context.run_file, standing.window)
        num_admitted = count_admitted(standing, limits, most=GROUPS_AT_ONCE)
        if not num_admitted:
            await self._pause_at_dead_end(standing, limits)
            return 0
        ledger = self._context.ledger
        index = await asyncio.to_thread(ledger.next_index)
        position = await asyncio.to_thread(ledger.next_position)
        prompts = await self._order.pick(range(position, position + num_admitted), standing)
        rows = [
            self._training_row(standing, index + offset, position + offset, prompt)
            for offset, prompt in enumerate(prompts)
        ]
        return await self._open_picked(rows, prompts)

    async def _open_picked(self, rows: Sequence[GroupRow], prompts: Sequence[Prompt]) -> int:
        """What did not get into the ledger is not open, whatever the order believes."""
        try:
            return await self.open_rows(rows, prompts)
        except BaseException:
            self._order.look_again()
            raise

    def _training_row(
        self, standing: Standing, index: int, position: int, prompt: Prompt, redrive_of: str = ""
    ) -> GroupRow:
        return GroupRow(
            group_id=ids.training_group_id(self._context.run_id, index),
            purpose=Purpose.TRAIN,
            index=index,
            position=position,
            prompt_id=prompt.prompt_id,
            kind=prompt.kind,
            size=self._context.run_file.sampling.group_size,
            window=standing.window,
            opened_version=standing.version,
            opened_at=self._context.clock(),
            redrive_of=redrive_of,
        )

    async def _open_rounds(self) -> int:
        """Groups of evaluation rounds that are due."""
        opened, ledger = 0, self._context.ledger
        book = self._books.get(Purpose.EVALUATE)
        unopened = await asyncio.to_thread(ledger.unopened_rounds)
        if book is None or not unopened:
            return 0
        window = (await self._context.live.standing()).window
        for round_ in await asyncio.to_thread(ledger.open_rounds):
            indices = range(unopened.get(round_.version, round_.num_prompts), round_.num_prompts)
            rows = [self._evaluation_row(book, round_, index, window) for index in indices]
            opened += await self.open_rows(rows, [book.at(row.position) for row in rows])
        return opened

    def _evaluation_row(self, book: PromptBook, round_: Round, index: int, window: int) -> GroupRow:
        prompt = book.at(index)
        return GroupRow(
            group_id=ids.evaluation_group_id(self._context.run_id, round_.version, index),
            purpose=Purpose.EVALUATE,
            index=index,
            position=index,
            prompt_id=prompt.prompt_id,
            kind=prompt.kind,
            size=round_.samples_per_prompt,
            window=window,
            opened_version=round_.version,
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
        self._order.note_redriven(rows)
        return await self._open_picked(rows, prompts)

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

    async def _pause_at_dead_end(self, standing: Standing, limits: Limits) -> None:
        """Bounds that can never be met stop the run with their name, not silently."""
        reason = find_dead_end(standing, limits)
        if reason:
            await self._phases.set_phase(Phase.PAUSED, reason, automatic=True)
