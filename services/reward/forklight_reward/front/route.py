"""Sends a response to the worker of its task's kind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from forklight.v1 import types_pb2
from forklight_core.errors import InvalidInputError
from forklight_core.wire import Session, check_schema
from forklight_reward.front.logic import decide_logic
from forklight_reward.front.program import extract_source
from forklight_reward.gym.item import read_item, wrap_spec
from forklight_reward.ports import Judge, JudgeTask, Outcome, Part, Sandbox, Status, Tier, Verifier
from forklight_reward.verifier.extract import extract_answer
from forklight_reward.verifier.format import format_score

FRONT_VERSION = "front/1"
"""Of what the front decides of a program by itself."""


class TaskKind(StrEnum):
    """Kinds of task the front door can score."""

    MATH = "math"
    CODE = "code"
    JUDGE = "judge"
    LOGIC = "logic"
    GYM = "gym"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One response and the task it answers."""

    envelope: types_pb2.Envelope
    spec: types_pb2.TaskSpec
    response: str
    opened_version: int = 0
    """Policy version when its group was opened."""
    session: Session | None = None
    """What it did with a shell: the answer of a repository task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """The three workers behind the front door; logic needs none."""

    verifier: Verifier
    sandbox: Sandbox
    judge: Judge

    async def route(self, case: Case, timeout_s: float) -> Outcome:
        """One try. Raises errors of the tree: transient ones may be tried again, others may not."""
        check_schema(case.spec.schema_version, f"task of {case.envelope.sample_id}")
        match case.spec.kind:
            case TaskKind.MATH:
                return await self._verify(case, timeout_s)
            case TaskKind.CODE:
                return await self._execute(case, timeout_s)
            case TaskKind.JUDGE:
                return await self._judge(case, timeout_s)
            case TaskKind.LOGIC:
                return decide_logic(case.spec.spec_json, case.response)
            case TaskKind.GYM:
                return await self._score_gym(case, timeout_s)
        known = ", ".join(TaskKind)
        raise InvalidInputError(f"unknown task kind {case.spec.kind!r}: this release scores {known}")

    async def _verify(self, case: Case, timeout_s: float) -> Outcome:
        if not case.spec.gold.strip():
            raise InvalidInputError("the math task has no reference answer: set `gold` in the prompt file")
        return await self.verifier.verify(
            envelope=case.envelope, gold=case.spec.gold, response=case.response, timeout_s=timeout_s
        )

    async def _execute(self, case: Case, timeout_s: float) -> Outcome:
        source = extract_source(case.response, case.spec.spec_json)
        if source is None and case.session is None:
            return Outcome(
                status=Status.WRONG,
                parts={Part.CORRECT: 0.0},
                evidence="no closed code fence (for a repository task: no answer) after the thinking",
                worker="front",
                worker_version=FRONT_VERSION,
                tier=Tier.INLINE,
            )
        return await self.sandbox.execute(
            envelope=case.envelope,
            spec_json=case.spec.spec_json,
            source=source or "",
            session=case.session,
            timeout_s=timeout_s,
        )

    async def _score_gym(self, case: Case, timeout_s: float) -> Outcome:
        """Its scorers run the answer, so it goes where programs go; without one there is nothing to run."""
        spec_json = wrap_spec(case.spec.spec_json)
        read_item(spec_json)
        found, format_part = extract_answer(case.response), format_score(case.response)
        if found.answer is None:
            return Outcome(
                status=Status.WRONG,
                parts={Part.CORRECT: 0.0, Part.FORMAT: format_part},
                evidence=found.reason,
                worker="front",
                worker_version=FRONT_VERSION,
                tier=Tier.INLINE,
            )
        outcome = await self.sandbox.execute(
            envelope=case.envelope,
            spec_json=spec_json,
            source=found.answer,
            session=None,
            timeout_s=timeout_s,
        )
        if not outcome.is_scored:
            return outcome
        return replace(outcome, parts={**outcome.parts, Part.FORMAT: format_part})

    async def _judge(self, case: Case, timeout_s: float) -> Outcome:
        task = JudgeTask(
            prompt=case.spec.prompt,
            reference=case.spec.gold,
            response=case.response,
            spec_json=case.spec.spec_json,
            opened_version=case.opened_version,
        )
        return await self.judge.judge(envelope=case.envelope, task=task, timeout_s=timeout_s)
