"""Sends a response to the worker of its task's kind."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from forklight.v1 import types_pb2
from forklight_core.errors import InvalidInputError
from forklight_core.wire import check_schema
from forklight_reward.front.logic import decide_logic
from forklight_reward.front.program import extract_program
from forklight_reward.ports import Judge, Outcome, Part, Sandbox, Status, Verifier


class TaskKind(StrEnum):
    """Kinds of task the front door can score."""

    MATH = "math"
    CODE = "code"
    JUDGE = "judge"
    LOGIC = "logic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One response and the task it answers."""

    envelope: types_pb2.Envelope
    spec: types_pb2.TaskSpec
    response: str


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
        known = ", ".join(TaskKind)
        raise InvalidInputError(f"unknown task kind {case.spec.kind!r}: this release scores {known}")

    async def _verify(self, case: Case, timeout_s: float) -> Outcome:
        if not case.spec.gold.strip():
            raise InvalidInputError("the math task has no reference answer: set `gold` in the prompt file")
        return await self.verifier.verify(
            envelope=case.envelope, gold=case.spec.gold, response=case.response, timeout_s=timeout_s
        )

    async def _execute(self, case: Case, timeout_s: float) -> Outcome:
        source = extract_program(case.response)
        if source is None:
            return Outcome(
                status=Status.WRONG,
                parts={Part.CORRECT: 0.0},
                evidence="no closed code fence after the thinking",
                worker="front",
            )
        return await self.sandbox.execute(
            envelope=case.envelope, spec_json=case.spec.spec_json, source=source, timeout_s=timeout_s
        )

    async def _judge(self, case: Case, timeout_s: float) -> Outcome:
        return await self.judge.judge(
            envelope=case.envelope,
            prompt=case.spec.prompt,
            reference=case.spec.gold,
            response=case.response,
            timeout_s=timeout_s,
        )
