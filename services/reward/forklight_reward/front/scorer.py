"""Scores one sample: reads its blobs, routes it, tries again where that may help, rules, audits."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from zlib import crc32

from opentelemetry import trace
from opentelemetry.trace import Span

from forklight.v1 import reward_pb2, types_pb2
from forklight_core.blobs import BlobStore
from forklight_core.telemetry import SpanKind, span
from forklight_core.telemetry.conventions import Messaging, queue_attributes
from forklight_core.wire import check_envelope
from forklight_reward import metrics
from forklight_reward.audit.evidence import bound, reference_of
from forklight_reward.audit.log import AuditLog, Entry
from forklight_reward.audit.record import Facts, verdict_body
from forklight_reward.front.attempts import Attempts
from forklight_reward.front.fleet import Fleet
from forklight_reward.front.keys import Content, content_of, unread_content, verdict_key
from forklight_reward.front.known import KnownOutcomes
from forklight_reward.front.loading import CaseLoader
from forklight_reward.front.reward import Length, RewardPolicy
from forklight_reward.front.route import Case
from forklight_reward.front.verdict import Effort, Ruling, answer_envelope, build_verdict
from forklight_reward.ports import Outcome
from forklight_reward.shaping.shaper import FrozenShaping, Shaper

SPAN_NAME = "reward.score"
MOST_REQUEST_BYTES = 1 << 20
"""A larger request of the door is not kept, so its verdict cannot be replayed."""


def score_span(envelope: types_pb2.Envelope) -> AbstractContextManager[Span]:
    """The span of scoring one sample, in the sample's own trace; the calls made for it hang below."""
    return span(
        SPAN_NAME,
        sample_id=envelope.sample_id,
        traceparent=envelope.traceparent,
        kind=SpanKind.CONSUMER,
        attributes=queue_attributes("scoring", envelope.sample_id, Messaging.PROCESS),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whom a verdict is about, and what it can be made from again."""

    envelope: types_pb2.Envelope
    attempt: int
    facts: Facts
    content: Content
    """By the names of its blobs, until they are read."""
    request: bytes = b""
    """Specification and response themselves, of a sample without blobs."""


@dataclass(slots=True)
class Reading:
    """What is learned of a subject while it is tried."""

    content: Content
    source: str
    shaping: FrozenShaping | None = None
    case: Case | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """Everything a score needs."""

    run_id: str
    blobs: BlobStore
    fleet: Fleet
    policy: RewardPolicy
    attempts: Attempts
    known: KnownOutcomes = field(default_factory=KnownOutcomes)
    audit: AuditLog | None = None
    shaper: Shaper | None = None
    """None: rewards are not shaped."""

    async def score_task(self, task: types_pb2.ScoringTask, attempt: int) -> types_pb2.Verdict:
        """The verdict on a trajectory from the scoring queue.

        Always one: failures are verdicts without a score.
        """
        length = Length(
            num_response_tokens=task.trajectory.num_response_tokens,
            window_tokens=task.window_tokens,
            counts=task.trajectory.purpose != types_pb2.PURPOSE_EVALUATE,
        )
        content = unread_content(task)
        facts = Facts(
            kind=task.kind,
            work_key="",
            length=length,
            policy=self.policy,
            opened_version=task.opened_version,
            spec=task.spec.id,
            payload=task.trajectory.payload.id,
        )
        subject = Subject(envelope=task.envelope, attempt=attempt, facts=facts, content=content)
        loader = CaseLoader(self.blobs, task)

        async def load() -> Case:
            check_envelope(task.envelope, self.run_id)
            return await loader.load()

        return await self._score(subject, load)

    async def score_request(
        self, request: reward_pb2.ScoreRequest, left_s: float | None = None
    ) -> types_pb2.Verdict:
        """The verdict on a response that is all here; for tests, tools and evaluations."""
        is_full = request.finish_reason == types_pb2.FINISH_REASON_LENGTH
        case = Case(envelope=request.envelope, spec=request.spec, response=request.response)
        kept = request.SerializeToString(deterministic=True) if self.audit else b""
        if len(kept) > MOST_REQUEST_BYTES:
            kept = b""
        facts = Facts(
            kind=request.spec.kind,
            work_key="",
            length=Length(num_response_tokens=self.policy.window_tokens if is_full else 0),
            policy=self.policy,
            request=reference_of(kept) if kept else "",
        )
        subject = Subject(
            envelope=request.envelope,
            attempt=max(1, request.envelope.attempt),
            facts=facts,
            content=content_of(case),
            request=kept,
        )

        async def load() -> Case:
            return case

        with score_span(request.envelope):
            return await self._score(subject, load, left_s)

    async def _score(
        self, subject: Subject, load: Callable[[], Awaitable[Case]], left_s: float | None = None
    ) -> types_pb2.Verdict:
        """Try, rule, audit, count; the running span learns what came of it."""
        started = time.monotonic()
        read = Reading(content=subject.content, source=subject.facts.kind)
        outcome, num_attempts = await self._try(subject, load, read, left_s)
        effort = Effort(wall_s=time.monotonic() - started, num_attempts=num_attempts)
        work_key = read.content.work_key(outcome.worker_version)
        detail = bound(outcome.detail) if outcome.detail else b""
        ruling = self._rule(outcome, read, subject.facts.length, work_key)
        ruling = replace(ruling, evidence_ref=reference_of(detail) if detail else outcome.detail_ref)
        answer = answer_envelope(subject.envelope, subject.attempt)
        verdict = build_verdict(answer, outcome, ruling, effort)
        if self.audit is not None:
            facts = replace(subject.facts, work_key=work_key, source=read.source)
            blobs = tuple(each for each in (detail, subject.request) if each)
            await self.audit.add(Entry(body=verdict_body(verdict, facts), evidence=blobs))
        running = trace.get_current_span()
        running.set_attribute("rl.reward.status", outcome.status.value)
        if verdict.HasField("score"):
            running.set_attribute("rl.reward.score", verdict.score)
        metrics.record_verdict(subject.facts.kind, outcome.status, effort.wall_s)
        if outcome.reused:
            metrics.count_reused(subject.facts.kind)
        return verdict

    async def _try(
        self, subject: Subject, load: Callable[[], Awaitable[Case]], read: Reading, left_s: float | None
    ) -> tuple[Outcome, int]:
        """Ask until there is a score. Samples begin at different addresses, questions go to the next."""
        first = crc32(subject.envelope.sample_id.encode())

        async def ask(timeout_s: float, turn: int) -> Outcome:
            if read.case is None:
                case = await load()
                read.content, read.source = content_of(case), case.spec.source or case.spec.kind
                read.case = case
            found = read.case
            if self.shaper is not None and subject.facts.length.counts:
                read.shaping = await self.shaper.state_of(subject.facts.opened_version)

            async def judge(in_s: float) -> Outcome:
                return await self.fleet.route(found, in_s, first + turn)

            return await self.known.judge_once(read.content, judge, timeout_s)

        return await self.attempts.run(ask, left_s)

    def _rule(self, outcome: Outcome, read: Reading, length: Length, work_key: str) -> Ruling:
        """Score and parts, under the shaping of the group's version."""
        frozen = read.shaping
        name = frozen.name if frozen is not None else ""
        key = verdict_key(work_key, length, self.policy, name)
        if not outcome.is_scored:
            return Ruling(key=key, score=None, parts={})
        shape = None if frozen is None else frozen.shape_of(read.source)
        score, parts = self.policy.compose(outcome, length, shape)
        if self.shaper is not None and length.counts:
            self.shaper.observe(read.source, self.policy.base_of(outcome))
        return Ruling(key=key, score=score, parts=parts, shaping=name)
