"""Held-out evaluation: rounds become due with versions, and the best of them may finish the run."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from forklight_buffer import metrics
from forklight_buffer.context import Context
from forklight_buffer.phases import PhaseControl
from forklight_buffer.reconcile import Books
from forklight_buffer.records import Round
from forklight_buffer.states import Phase, Purpose
from forklight_core.telemetry import gauge

ROUNDS_LOOKED_AT = 50


class Evaluator:
    """Opens and closes rounds; the opener opens their groups."""

    def __init__(self, context: Context, phases: PhaseControl, books: Books) -> None:
        self._context = context
        self._phases = phases
        self._books = books

    async def note_version(self, version: int) -> None:
        """A version is announced: is a round due? One a version, ever. Callers hold the turn."""
        section, book = self._context.run_file.evaluation, self._books.get(Purpose.EVALUATE)
        if book is None or not section.every_versions or version % section.every_versions:
            return
        num_prompts = min(section.num_prompts, len(book))
        if await asyncio.to_thread(
            self._context.ledger.open_round, version, num_prompts, self._context.clock()
        ):
            await self._context.record("evaluation_due", f"version {version}, {num_prompts} prompts")

    async def close_rounds(self) -> None:
        """Close rounds all of whose samples have ended; the goal may finish the run."""
        context = self._context
        async with context.turn:
            control = await asyncio.to_thread(context.ledger.control)
            for round_ in await asyncio.to_thread(context.ledger.rounds, ROUNDS_LOOKED_AT):
                if not round_.complete and control.phase is not Phase.FINISHED:
                    await self._close_when_over(round_)

    async def _close_when_over(self, round_: Round) -> None:
        context = self._context
        scored, failed, mean = await asyncio.to_thread(context.ledger.evaluation_scores, round_.version)
        if scored + failed < round_.num_prompts:
            return
        finished = replace(round_, num_scored=scored, num_failed=failed, mean_reward=mean, complete=True)
        await asyncio.to_thread(context.ledger.close_round, finished, context.clock())
        gauge(metrics.EVALUATION_REWARD).set(mean)
        await context.record(
            "evaluation_complete",
            f"version {round_.version}: mean reward {mean:.4f} of {scored} "
            f"scored samples, {failed} without a score",
        )
        goal = context.run_file.evaluation.goal_reward
        if goal is not None and scored and mean >= goal:
            reason = (
                f"evaluation at version {round_.version} reached a mean reward of {mean:.4f}, goal {goal:g}"
            )
            await self._phases.set_phase(Phase.FINISHED, reason)
