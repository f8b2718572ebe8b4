"""The gRPC doors of the four roles.

Errors of the tree become statuses in core; nothing else is caught here.
"""

from __future__ import annotations

import time
from typing import Any

import grpc.aio

from forklight.v1 import reward_pb2, types_pb2
from forklight_core.errors import BusyError, InvalidInputError, UnavailableError
from forklight_core.wire import read_session
from forklight_reward import metrics
from forklight_reward.front.lanes import Lanes, class_of
from forklight_reward.front.scorer import Scorer
from forklight_reward.gym.item import is_gym, read_item
from forklight_reward.gym.score import gym_version, score_answer
from forklight_reward.judge.desk import JudgeDesk, Ruling, Subject
from forklight_reward.sandbox.program import ProgramRun, run_program
from forklight_reward.sandbox.result import LIMIT_CLASSES, Class, SandboxResult
from forklight_reward.sandbox.run import execute, total_budget_s
from forklight_reward.sandbox.runner import Runner
from forklight_reward.sandbox.session.play import Sessions
from forklight_reward.sandbox.spec import Mode, Spec, parse_spec
from forklight_reward.slots import Slots
from forklight_reward.verifier.extract import extract_answer
from forklight_reward.verifier.format import format_score
from forklight_reward.verifier.pool import MathPool
from forklight_reward.verifier.verify import (
    MathStatus,
    MathVerdict,
    decide_quickly,
    decide_slowly,
    rules_version,
)

Call = grpc.aio.ServicerContext[Any, Any]

MARGIN_S = 0.5
LONGEST_S = 600.0
QUEUE_SHARE = 0.2

MATH_STATUS_ON_WIRE = {
    MathStatus.OK: types_pb2.VERDICT_STATUS_OK,
    MathStatus.WRONG: types_pb2.VERDICT_STATUS_WRONG,
    MathStatus.LIMIT: types_pb2.VERDICT_STATUS_LIMIT,
    MathStatus.UNVERIFIABLE: types_pb2.VERDICT_STATUS_UNVERIFIABLE,
}

PROGRAM_ENDS = {
    None: reward_pb2.PROGRAM_END_OK,
    Class.COMPILE_ERROR: reward_pb2.PROGRAM_END_COMPILE_ERROR,
    Class.RUNTIME_ERROR: reward_pb2.PROGRAM_END_RUNTIME_ERROR,
    Class.TIME_LIMIT: reward_pb2.PROGRAM_END_TIME_LIMIT,
    Class.MEMORY_LIMIT: reward_pb2.PROGRAM_END_MEMORY_LIMIT,
    Class.OUTPUT_LIMIT: reward_pb2.PROGRAM_END_OUTPUT_LIMIT,
    Class.VIOLATION: reward_pb2.PROGRAM_END_VIOLATION,
}


def time_left_s(context: Call) -> float:
    """Seconds the caller still waits, less what the way back takes."""
    remaining: float | None = context.time_remaining()  # None without a deadline, whatever its types say
    return LONGEST_S if remaining is None else max(0.0, remaining - MARGIN_S)


class RewardServicer:
    """The front door's own call; most work comes through the queue."""

    def __init__(self, scorer: Scorer, lanes: Lanes) -> None:
        self._scorer = scorer
        self._lanes = lanes

    async def Score(self, request: reward_pb2.ScoreRequest, context: Call) -> reward_pb2.ScoreReply:
        """The verdict on one response, in the line of its class; BusyError when that is full."""
        work_class = class_of(request.spec.kind, request.spec.spec_json)
        async with self._lanes.hold(work_class, time_left_s(context)):
            verdict = await self._scorer.score_request(request, time_left_s(context))
        return reward_pb2.ScoreReply(verdict=verdict)


class VerifierServicer:
    """Rules."""

    def __init__(self, pool: MathPool, slots: Slots) -> None:
        self._pool = pool
        self._slots = slots

    async def Verify(self, request: reward_pb2.VerifyRequest, context: Call) -> reward_pb2.VerifyReply:
        """Compare an answer with the reference."""
        if request.kind != "math":
            raise InvalidInputError(
                f"verifier kind {request.kind!r} is not known: this release verifies 'math'"
            )
        if not request.gold.strip():
            raise InvalidInputError("verifier: the reference answer is empty")
        started = time.monotonic()
        verdict = await self._decide(request, time_left_s(context))
        return reward_pb2.VerifyReply(
            status=MATH_STATUS_ON_WIRE[verdict.status],
            correct=verdict.correct,
            format=0.0 if request.extracted else format_score(request.response),
            answer=verdict.answer,
            evidence=verdict.evidence,
            worker_version=rules_version(),
            wall_s=time.monotonic() - started,
        )

    async def _decide(self, request: reward_pb2.VerifyRequest, left_s: float) -> MathVerdict:
        quick = decide_quickly(request.gold, request.response, request.extracted)
        if isinstance(quick, MathVerdict):
            metrics.count_math_call(quick.status.value, fast=True)
            return quick
        answer = request.response if request.extracted else extract_answer(request.response).answer or ""
        async with self._slots.hold(left_s):
            num_killed = self._pool.stats.num_killed
            verdict = await self._slots.run(lambda: decide_slowly(quick, answer, self._pool, left_s))
        if self._pool.stats.num_killed > num_killed:
            metrics.count_math_kill()
        metrics.count_math_call(verdict.status.value, fast=False)
        return verdict


class SandboxServicer:
    """Untrusted programs. Refuses to run any before the self-test has passed."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._repositories = slots.most_but_one("sandbox, repositories")
        self._sessions: Sessions | None = None
        self.runner: Runner | None = None

    async def Execute(self, request: reward_pb2.ExecuteRequest, context: Call) -> reward_pb2.ExecuteReply:
        """Run a program against its tests, or (mode run) for what it prints."""
        runner = self.runner
        if runner is None:
            raise UnavailableError(
                "sandbox: the self-test has not passed on this machine, so no program is run"
            )
        if is_gym(request.spec_json):
            return await self._score_gym(request, runner, time_left_s(context))
        spec = parse_spec(request.spec_json, request.source or None)
        arrived_s = time_left_s(context)
        behind = self._repositories if spec.mode is Mode.REPO else None
        async with self._slots.hold(arrived_s, behind):
            left_s = time_left_s(context)
            is_short = left_s < total_budget_s(spec)
            # What a run prints is taken as it is, so a run is whole or not at all.
            if is_short and (spec.mode is Mode.RUN or left_s < (1 - QUEUE_SHARE) * arrived_s):
                raise BusyError(
                    "sandbox: waiting for a slot took the program's time; try later or start more sandboxes"
                )
            if spec.mode is Mode.RUN:
                return run_reply(await self._slots.run(lambda: run_program(spec, runner)), runner)
            spec = await self._answered(spec, request, runner)
            left_s = time_left_s(context)
            result = await self._slots.run(lambda: execute(spec, runner, left_s))
        metrics.count_job(result.verdict.value)
        return execute_reply(result, runner)

    async def _score_gym(
        self, request: reward_pb2.ExecuteRequest, runner: Runner, left_s: float
    ) -> reward_pb2.ExecuteReply:
        """An answer to an item of the gym; its scorer runs in a jail."""
        item = read_item(request.spec_json)
        async with self._slots.hold(left_s):
            result = await self._slots.run(lambda: score_answer(item, request.source, runner))
        metrics.count_job(result.verdict.value)
        reply = execute_reply(result, runner)
        reply.worker_version = gym_version(runner)
        return reply

    async def _answered(self, spec: Spec, request: reward_pb2.ExecuteRequest, runner: Runner) -> Spec:
        """The same; what a session did stands for its answer."""
        if not request.session.commands:
            return spec
        session, sessions = read_session(request.session), self._sessions_of(runner)
        return await self._slots.run(lambda: sessions.answered(spec, session))

    async def Act(self, request: reward_pb2.ActRequest, context: Call) -> reward_pb2.ActReply:
        """Carry out the last command of a session."""
        runner = self.runner
        if runner is None:
            raise UnavailableError(
                "sandbox: the self-test has not passed on this machine, so no command is run"
            )
        session, sessions = read_session(request.session), self._sessions_of(runner)
        async with self._slots.hold(time_left_s(context)):
            if time_left_s(context) < session.timeout_s:
                raise BusyError(
                    "sandbox: waiting for a slot took the command's time; try later or start more sandboxes"
                )
            run = await self._slots.run(lambda: sessions.act(request.workspace_json, session))
        reply = run_reply(run, runner)
        return reward_pb2.ActReply(run=reply.run, worker_version=runner.version, wall_s=run.wall_s)

    def _sessions_of(self, runner: Runner) -> Sessions:
        if self._sessions is None or self._sessions.runner is not runner:
            self._sessions = Sessions(runner)
        return self._sessions


def execute_reply(result: SandboxResult, runner: Runner) -> reward_pb2.ExecuteReply:
    """A result as a message."""
    status = (
        types_pb2.VERDICT_STATUS_OK if result.verdict is Class.ACCEPTED else types_pb2.VERDICT_STATUS_WRONG
    )
    if result.verdict in LIMIT_CLASSES:
        status = types_pb2.VERDICT_STATUS_LIMIT
    failed = "" if result.first_fail is None else f" at test {result.first_fail}: {result.evidence}"
    return reward_pb2.ExecuteReply(
        status=status,
        result_json=result.to_json(),
        score=result.score,
        evidence=f"{result.verdict.value}, {result.num_passed} of {result.num_tests} tests{failed}",
        worker_version=runner.version,
        wall_s=result.usage.wall_s,
    )


def run_reply(run: ProgramRun, runner: Runner) -> reward_pb2.ExecuteReply:
    """What a program of mode run printed, as a message without a score."""
    end = "OK" if run.failure is None else run.failure.value
    metrics.count_job(end, is_judged=False)
    status = types_pb2.VERDICT_STATUS_OK if run.failure is None else types_pb2.VERDICT_STATUS_WRONG
    if run.failure in LIMIT_CLASSES:
        status = types_pb2.VERDICT_STATUS_LIMIT
    return reward_pb2.ExecuteReply(
        status=status,
        evidence=f"mode run, {end}: a run without tests has no score",
        worker_version=runner.version,
        wall_s=run.wall_s,
        run=reward_pb2.ProgramRun(
            end=PROGRAM_ENDS[run.failure],
            stdout=run.stdout,
            stderr=run.stderr,
            stdout_bytes=run.stdout_bytes,
            stderr_bytes=run.stderr_bytes,
        ),
    )


class JudgeServicer:
    """Generative reward model. Refuses to judge before it has passed the canaries."""

    def __init__(self, desk: JudgeDesk) -> None:
        self._desk = desk
        self.is_proven = False

    async def Judge(self, request: reward_pb2.JudgeRequest, context: Call) -> reward_pb2.JudgeReply:
        """Grade what was said after the thinking."""
        if not self.is_proven:
            raise UnavailableError(
                f"judge {self._desk.judges.default.version} has not passed the canaries: it grades nothing"
            )
        started = time.monotonic()
        subject = Subject(
            prompt=request.prompt,
            reference=request.reference,
            response=request.response,
            spec_json=request.spec_json,
            group_id=request.envelope.group_id,
            sample_id=request.envelope.sample_id,
            opened_version=request.opened_version,
        )
        ruling = await self._desk.judge(subject, time_left_s(context))
        return judge_reply(ruling, time.monotonic() - started)


def judge_reply(ruling: Ruling, wall_s: float) -> reward_pb2.JudgeReply:
    """A ruling as a message."""
    status = types_pb2.VERDICT_STATUS_WRONG if ruling.fails else types_pb2.VERDICT_STATUS_OK
    return reward_pb2.JudgeReply(
        status=types_pb2.VERDICT_STATUS_ABSTAIN if ruling.score is None else status,
        score=ruling.score,
        grade=ruling.grade,
        evidence=ruling.evidence,
        worker_version=f"{ruling.engine} {ruling.calibration.name}",
        wall_s=wall_s,
        parts=[types_pb2.RewardPart(name=name, value=value) for name, value in ruling.parts.items()],
        calibration=ruling.calibration.name,
    )
