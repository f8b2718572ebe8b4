"""The front's ports over gRPC. Channels of core raise our errors, carry deadlines and the trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import grpc.aio

from forklight.v1 import buffer_pb2, buffer_pb2_grpc, reward_pb2, reward_pb2_grpc, types_pb2
from forklight_core.queues import Lease
from forklight_core.rpc import Coalescer, error_named
from forklight_core.wire import Session
from forklight_reward.adapters.facts import sandbox_detail, tier_of, usage_of
from forklight_reward.front.verdict import STATUS_FROM_WIRE
from forklight_reward.ports import JudgeTask, Outcome, Part, Status, Tier, Usage

SUBMIT_TIMEOUT_S = 10.0
MOST_AT_ONCE = 64


def _status(wire: types_pb2.VerdictStatus) -> Status:
    """A status this build does not know is no score."""
    return STATUS_FROM_WIRE.get(wire, Status.INFRA_ERROR)


class GrpcVerifier:
    """Port Verifier."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._door = cast("reward_pb2_grpc.VerifierAsyncStub", reward_pb2_grpc.VerifierStub(channel))

    async def verify(
        self, *, envelope: types_pb2.Envelope, gold: str, response: str, timeout_s: float
    ) -> Outcome:
        """Ask the verifier."""
        request = reward_pb2.VerifyRequest(envelope=envelope, kind="math", gold=gold, response=response)
        reply = await self._door.Verify(request, timeout=timeout_s)
        return Outcome(
            status=_status(reply.status),
            parts={Part.CORRECT: float(reply.correct), Part.FORMAT: reply.format},
            evidence=reply.evidence,
            worker="verifier",
            worker_version=reply.worker_version,
            tier=Tier.PROCESS,
            usage=Usage(wall_ms=round(reply.wall_s * 1000)),
        )


class GrpcSandbox:
    """Port Sandbox."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._door = cast("reward_pb2_grpc.SandboxAsyncStub", reward_pb2_grpc.SandboxStub(channel))

    async def execute(
        self,
        *,
        envelope: types_pb2.Envelope,
        spec_json: str,
        source: str,
        session: Session | None = None,
        timeout_s: float,
    ) -> Outcome:
        """Ask a sandbox. A masked result has no score."""
        request = reward_pb2.ExecuteRequest(
            envelope=envelope,
            spec_json=spec_json,
            source=source,
            session=None if session is None else session.to_wire(),
        )
        reply = await self._door.Execute(request, timeout=timeout_s)
        has_score = reply.HasField("score")
        return Outcome(
            status=_status(reply.status) if has_score else Status.INFRA_ERROR,
            parts={Part.CORRECT: reply.score} if has_score else {},
            evidence=reply.evidence,
            worker="sandbox",
            worker_version=reply.worker_version,
            tier=tier_of(reply.worker_version),
            usage=usage_of(reply.result_json, reply.wall_s),
            detail=sandbox_detail(reply.result_json, source, session.commands if session else ()),
        )


class GrpcJudge:
    """Port Judge."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._door = cast("reward_pb2_grpc.JudgeAsyncStub", reward_pb2_grpc.JudgeStub(channel))

    async def judge(self, *, envelope: types_pb2.Envelope, task: JudgeTask, timeout_s: float) -> Outcome:
        """Ask the judge. Without a score it has abstained."""
        request = reward_pb2.JudgeRequest(
            envelope=envelope,
            prompt=task.prompt,
            reference=task.reference,
            response=task.response,
            spec_json=task.spec_json,
            opened_version=task.opened_version,
        )
        reply = await self._door.Judge(request, timeout=timeout_s)
        has_score = reply.HasField("score")
        parts = {Part(each.name): each.value for each in reply.parts if each.name in set(Part)}
        return Outcome(
            status=_status(reply.status) if has_score else Status.ABSTAIN,
            parts={Part.JUDGE: reply.score} | parts if has_score else {},
            evidence=reply.evidence,
            worker="judge",
            worker_version=reply.worker_version,
            tier=Tier.ENDPOINT,
            usage=Usage(wall_ms=round(reply.wall_s * 1000)),
            versions={"calibration": reply.calibration} if reply.calibration else {},
        )


class GrpcBuffer:
    """Port Buffer. Verdicts that come together travel together."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._door = cast("buffer_pb2_grpc.BufferAsyncStub", buffer_pb2_grpc.BufferStub(channel))
        self._coalescer: Coalescer[buffer_pb2.SubmitVerdictRequest, None] = Coalescer(
            self._submit_all, most=MOST_AT_ONCE
        )

    async def submit_verdict(self, verdict: types_pb2.Verdict, lease: Lease) -> None:
        """Hand a verdict over."""
        claim = types_pb2.Lease(entry_id=lease.entry_id, consumer=lease.consumer, fence=lease.fence)
        await self._coalescer.submit(buffer_pb2.SubmitVerdictRequest(verdict=verdict, lease=claim))

    async def _submit_all(
        self, requests: Sequence[buffer_pb2.SubmitVerdictRequest]
    ) -> list[Exception | None]:
        call = buffer_pb2.SubmitVerdictsRequest(items=requests)
        reply = await self._door.SubmitVerdicts(call, timeout=SUBMIT_TIMEOUT_S)
        return [
            error_named(result.refusal.error, result.refusal.message) if result.HasField("refusal") else None
            for result in reply.results
        ]
