"""The front's ports inside one process, with the same rules and judges.

For tests and tools; no jail, no network.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from forklight.v1 import types_pb2
from forklight_core.errors import FencedError, ForklightError
from forklight_core.queues import Lease, WorkQueue
from forklight_core.wire import Session
from forklight_reward.adapters.facts import sandbox_detail, tier_of, usage_of
from forklight_reward.judge.contract import JudgeEngine
from forklight_reward.ports import JudgeTask, Outcome, Part, Status, Tier
from forklight_reward.sandbox.result import LIMIT_CLASSES, Class
from forklight_reward.sandbox.run import execute
from forklight_reward.sandbox.runner import Runner
from forklight_reward.sandbox.session.play import Sessions
from forklight_reward.sandbox.spec import parse_spec
from forklight_reward.verifier.extract import final_part
from forklight_reward.verifier.format import format_score
from forklight_reward.verifier.pool import MathPool
from forklight_reward.verifier.verify import rules_version, verify_math


class LocalVerifier:
    """Port Verifier on a pool of this process."""

    def __init__(self, pool: MathPool | None = None) -> None:
        self._pool = pool

    async def verify(
        self, *, envelope: types_pb2.Envelope, gold: str, response: str, timeout_s: float
    ) -> Outcome:
        """Apply the rules."""
        verdict = await asyncio.to_thread(
            verify_math, gold, response, False, pool=self._pool, wait_s=timeout_s
        )
        return Outcome(
            status=Status(verdict.status.value),
            parts={Part.CORRECT: float(verdict.correct), Part.FORMAT: format_score(response)},
            evidence=verdict.evidence,
            worker="verifier",
            worker_version=rules_version(),
            tier=Tier.PROCESS,
        )


class LocalSandbox:
    """Port Sandbox on a runner of this process."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._sessions = Sessions(runner)

    async def execute(
        self,
        *,
        envelope: types_pb2.Envelope,
        spec_json: str,
        source: str,
        session: Session | None = None,
        timeout_s: float,
    ) -> Outcome:
        """Run a program."""
        spec = parse_spec(spec_json, source)
        if session is not None:
            spec = await asyncio.to_thread(self._sessions.answered, spec, session)
        result = await asyncio.to_thread(execute, spec, self._runner, timeout_s)
        status = Status.OK if result.verdict is Class.ACCEPTED else Status.WRONG
        return Outcome(
            status=Status.LIMIT if result.verdict in LIMIT_CLASSES else status,
            parts={Part.CORRECT: result.score},
            evidence=f"{result.verdict.value} {result.evidence}",
            worker="sandbox",
            worker_version=self._runner.version,
            tier=tier_of(self._runner.version),
            usage=usage_of(result.to_json(), result.usage.wall_s),
            detail=sandbox_detail(result.to_json(), source, session.commands if session else ()),
        )


class LocalJudge:
    """Port Judge on an engine of this process."""

    def __init__(self, engine: JudgeEngine) -> None:
        self._engine = engine

    async def judge(self, *, envelope: types_pb2.Envelope, task: JudgeTask, timeout_s: float) -> Outcome:
        """Grade."""
        judgement = await self._engine.judge(
            prompt=task.prompt,
            reference=task.reference,
            answer=final_part(task.response).strip(),
            timeout_s=timeout_s,
        )
        score = judgement.score
        return Outcome(
            status=Status.ABSTAIN if score is None else Status.OK,
            parts={} if score is None else {Part.JUDGE: score},
            evidence=judgement.evidence,
            worker="judge",
            worker_version=self._engine.version,
        )


class MemoryBuffer:
    """Port Buffer that settles entries of a work queue as the buffer does, and fails first as often as it
    is told to.
    """

    def __init__(self, queue: WorkQueue, failures: Sequence[ForklightError] = ()) -> None:
        self.verdicts: dict[str, types_pb2.Verdict] = {}
        self.num_calls = 0
        self._queue = queue
        self._failures = list(failures)

    async def submit_verdict(self, verdict: types_pb2.Verdict, lease: Lease) -> None:
        """Keep the first verdict of a sample; refuse a lost lease."""
        self.num_calls += 1
        if self._failures:
            raise self._failures.pop(0)
        if not await self._queue.settle(lease):
            raise FencedError(f"lease {lease.entry_id} of {lease.consumer} has a newer holder")
        self.verdicts.setdefault(verdict.envelope.sample_id, verdict)
