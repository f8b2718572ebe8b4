"""Held-out evaluation: rounds become due with versions, and the best of them may finish the run.

Rounds never wait for each other nor training for them: a new one opens while the one before is incomplete.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace

from forklight.v1 import types_pb2
from forklight_buffer import metrics
from forklight_buffer.context import Context
from forklight_buffer.evaluation.estimates import Question, estimate_round
from forklight_buffer.phases import PhaseControl
from forklight_buffer.reconcile import Books
from forklight_buffer.records import EvaluatedSample, Round
from forklight_buffer.states import Phase, Purpose, Reason, RoundState
from forklight_buffer.steering import Steering
from forklight_core.telemetry import counter, gauge

MOST_OPEN_ROUNDS = 2


class Evaluator:
    """Opens and closes rounds; the opener opens their groups."""

    def __init__(self, context: Context, phases: PhaseControl, steering: Steering, books: Books) -> None:
        self._context = context
        self._phases = phases
        self._steering = steering
        self._books = books

    @property
    def holds_rounds(self) -> bool:
        """Whether this run evaluates at all."""
        return Purpose.EVALUATE in self._books and self._context.run_file.evaluation.every_versions > 0

    async def note_version(self, version: int) -> None:
        """A version is announced: is a round due? One a version, ever. Callers hold the turn."""
        if not self.holds_rounds or version % self._context.run_file.evaluation.every_versions:
            return
        others = await asyncio.to_thread(self._context.ledger.open_rounds)
        if sum(round_.version != version for round_ in others) < MOST_OPEN_ROUNDS:
            await self.hold(version)
        else:
            await self._skip(version, others)

    async def hold(self, version: int) -> None:
        """Hold the round of a version, unless it was held. Callers hold the turn."""
        due = self._round(version)
        if await asyncio.to_thread(self._context.ledger.open_round, due, self._context.clock()):
            detail = f"version {version}, {due.num_prompts} prompts x {due.samples_per_prompt}"
            await self._context.record("evaluation_due", detail)

    async def _skip(self, version: int, others: Sequence[Round]) -> None:
        skipped = replace(self._round(version), state=RoundState.SKIPPED)
        if not await asyncio.to_thread(self._context.ledger.open_round, skipped, self._context.clock()):
            return
        counter(metrics.EVALUATIONS_SKIPPED).add(1)
        versions = [round_.version for round_ in others]
        control = await asyncio.to_thread(self._context.ledger.control)
        await self._steering.report(
            types_pb2.RunEvent(
                id=f"evaluation-skipped-v{version}",
                kind="evaluation_skipped",
                severity=types_pb2.SEVERITY_WARNING,
                step=control.step,
                version=version,
                at=self._context.clock(),
                title=f"Version {version} is not evaluated: the rounds of versions "
                f"{' and '.join(map(str, versions))} are still open. Evaluate less often, or raise "
                "evaluation.max_share",
                evidence_json=json.dumps({"open_versions": versions}),
            )
        )

    def _round(self, version: int) -> Round:
        section, book = self._context.run_file.evaluation, self._books[Purpose.EVALUATE]
        return Round(
            version=version,
            num_prompts=min(section.num_prompts, len(book)),
            samples_per_prompt=section.samples_per_prompt,
        )

    async def close_rounds(self) -> None:
        """Close rounds all of whose samples have ended, and those a finished run has cut; the goal may finish
        the run.
        """
        context = self._context
        async with context.turn:
            for round_ in await asyncio.to_thread(context.ledger.open_rounds):
                samples = await asyncio.to_thread(context.ledger.evaluated_samples, round_.version)
                control = await asyncio.to_thread(context.ledger.control)
                is_cut = any(sample.reason == Reason.RUN_FINISHED for sample in samples)
                if len(samples) >= round_.num_samples and not is_cut:
                    await self._complete(round_, samples, may_finish=control.phase is not Phase.FINISHED)
                elif is_cut or control.phase is Phase.FINISHED:
                    await self._cut(round_)

    async def _cut(self, round_: Round) -> None:
        ledger = self._context.ledger
        scored, failed, mean = await asyncio.to_thread(ledger.evaluation_scores, round_.version)
        cut = replace(round_, num_scored=scored, num_failed=failed, mean_reward=mean, state=RoundState.CUT)
        await asyncio.to_thread(ledger.close_round, cut, self._context.clock())
        await self._context.record(
            "evaluation_cut", f"version {round_.version}: the run ended when {scored} samples were scored"
        )

    async def _complete(self, round_: Round, samples: Sequence[EvaluatedSample], *, may_finish: bool) -> None:
        context = self._context
        estimates = await asyncio.to_thread(estimate_round, samples, self._question(round_.version))
        scored, failed, mean = await asyncio.to_thread(context.ledger.evaluation_scores, round_.version)
        finished = replace(
            round_,
            num_scored=scored,
            num_failed=failed,
            mean_reward=mean,
            state=RoundState.COMPLETE,
            estimates=estimates,
        )
        await asyncio.to_thread(context.ledger.close_round, finished, context.clock())
        await self._announce(finished)
        goal = context.run_file.evaluation.goal_reward
        if may_finish and goal is not None and scored and mean >= goal:
            reason = (
                f"evaluation at version {round_.version} reached a mean reward of {mean:.4f}, goal {goal:g}"
            )
            await self._phases.set_phase(Phase.FINISHED, reason)

    def _question(self, version: int) -> Question:
        section = self._context.run_file.evaluation
        return Question(
            pass_at=section.pass_at,
            pass_threshold=section.pass_threshold,
            confidence=section.confidence,
            seed=version,
        )

    async def _announce(self, finished: Round) -> None:
        passes = finished.estimates.pass_at if finished.estimates is not None else ()
        for found in passes:
            gauge(metrics.EVALUATION_PASS).set(found.value, {"k": found.k})
        if finished.num_scored:
            gauge(metrics.EVALUATION_REWARD).set(finished.mean_reward)
        named = [f"pass@{each.k} {each.value:.4f} [{each.low:.4f}, {each.high:.4f}]" for each in passes]
        await self._context.record(
            "evaluation_complete",
            ", ".join(
                [
                    f"version {finished.version}: mean reward {finished.mean_reward:.4f} of "
                    f"{finished.num_scored} scored samples",
                    *named,
                    f"{finished.num_failed} without a score",
                ]
            ),
        )
