"""Scores one sample end to end: reads its blobs, routes it, tries again where that may help, builds the
verdict.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.trace import Span

from forklight.v1 import reward_pb2, types_pb2
from forklight_core.blobs import BlobStore
from forklight_core.telemetry import SpanKind, span
from forklight_core.wire import check_envelope
from forklight_reward import metrics
from forklight_reward.front.attempts import Attempts
from forklight_reward.front.loading import CaseLoader
from forklight_reward.front.reward import Length, RewardPolicy
from forklight_reward.front.route import Case, Router
from forklight_reward.front.verdict import Effort, answer_envelope, build_verdict
from forklight_reward.ports import Outcome

SPAN_NAME = "reward.score"


def score_span(envelope: types_pb2.Envelope) -> AbstractContextManager[Span]:
    """The span of scoring one sample, in the sample's own trace; the calls made for it hang below."""
    return span(
        SPAN_NAME,
        sample_id=envelope.sample_id,
        traceparent=envelope.traceparent,
        kind=SpanKind.CONSUMER,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whom a verdict is about."""

    envelope: types_pb2.Envelope
    attempt: int
    kind: str
    length: Length


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """Everything a score needs."""

    run_id: str
    blobs: BlobStore
    router: Router
    policy: RewardPolicy
    attempts: Attempts

    async def score_task(self, task: types_pb2.ScoringTask, attempt: int) -> types_pb2.Verdict:
        """The verdict on a trajectory from the scoring queue.

        Always one: failures are verdicts without a score.
        """
        length = Length(
            num_response_tokens=task.trajectory.num_response_tokens,
            window_tokens=task.window_tokens,
            counts=task.trajectory.purpose != types_pb2.PURPOSE_EVALUATE,
        )
        subject = Subject(envelope=task.envelope, attempt=attempt, kind=task.kind, length=length)
        loader = CaseLoader(self.blobs, task)

        async def call(timeout_s: float) -> Outcome:
            check_envelope(task.envelope, self.run_id)
            return await self.router.route(await loader.load(), timeout_s)

        return await self._score(subject, call)

    async def score_request(self, request: reward_pb2.ScoreRequest) -> types_pb2.Verdict:
        """The verdict on a response that is all here; for tests, tools and evaluations."""
        is_full = request.finish_reason == types_pb2.FINISH_REASON_LENGTH
        subject = Subject(
            envelope=request.envelope,
            attempt=max(1, request.envelope.attempt),
            kind=request.spec.kind,
            length=Length(num_response_tokens=self.policy.window_tokens if is_full else 0),
        )
        case = Case(envelope=request.envelope, spec=request.spec, response=request.response)

        async def call(timeout_s: float) -> Outcome:
            return await self.router.route(case, timeout_s)

        with score_span(request.envelope):
            return await self._score(subject, call)

    async def _score(
        self, subject: Subject, call: Callable[[float], Awaitable[Outcome]]
    ) -> types_pb2.Verdict:
        """Try, compose, count; the running span learns what came of it."""
        started = time.monotonic()
        outcome, num_attempts = await self.attempts.run(call)
        effort = Effort(wall_s=time.monotonic() - started, num_attempts=num_attempts)
        answer = answer_envelope(subject.envelope, subject.attempt)
        verdict = build_verdict(answer, outcome, subject.length, self.policy, effort)
        running = trace.get_current_span()
        running.set_attribute("rl.reward.status", outcome.status.value)
        if verdict.HasField("score"):
            running.set_attribute("rl.reward.score", verdict.score)
        metrics.record_verdict(subject.kind, outcome.status, effort.wall_s)
        return verdict
