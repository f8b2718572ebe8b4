"""Closed-loop load through the front's gRPC door: so many callers, each asks again once it has an answer."""

# ruff: noqa: INP001
from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from forklight.v1 import reward_pb2, reward_pb2_grpc, types_pb2
from forklight_core import ids
from forklight_core.rpc import open_channel
from forklight_core.wire import SCHEMA_VERSION
from services.reward.bench.roles import RUN_ID, Roles
from services.reward.bench.work import HARD_BOMB, SOFT_BOMB, Answered

CALL_S = 120.0
WARM_CALLS = 8


@dataclass(slots=True, kw_only=True)
class Measured:
    """What one load came to. Bombs are counted apart: nobody waits for their authors."""

    concurrency: int
    seconds: float = 0.0
    cpu_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    bomb_latencies_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def num_verdicts(self) -> int:
        return len(self.latencies_s) + len(self.bomb_latencies_s)

    @property
    def per_s(self) -> float:
        return self.num_verdicts / self.seconds if self.seconds else 0.0

    @property
    def cpu_ms(self) -> float:
        """CPU of the services, without the load's own."""
        return self.cpu_s / max(1, self.num_verdicts) * 1000

    def percentile_ms(self, percent: float) -> float:
        return float(np.percentile(self.latencies_s, percent)) * 1000 if self.latencies_s else float("nan")


def request(case: Answered, number: int) -> reward_pb2.ScoreRequest:
    sample = ids.sample_id(ids.training_group_id(RUN_ID, number), 0)
    envelope = types_pb2.Envelope(
        schema_version=SCHEMA_VERSION,
        run_id=RUN_ID,
        group_id=ids.group_of(sample),
        sample_id=sample,
        attempt=1,
    )
    return reward_pb2.ScoreRequest(
        envelope=envelope,
        spec=case.spec,
        response=case.response,
        finish_reason=types_pb2.FINISH_REASON_STOP,
    )


async def drive(roles: Roles, cases: Iterator[Answered], *, concurrency: int, seconds: float) -> Measured:
    """Ask for so long, after a few calls that nobody measures."""
    measured, numbers = Measured(concurrency=concurrency), iter(range(10**9))
    async with open_channel(roles.plan.address_of("reward-front")) as channel:
        door = cast("reward_pb2_grpc.RewardAsyncStub", reward_pb2_grpc.RewardStub(channel))

        async def ask(case: Answered) -> None:
            started = time.perf_counter()
            reply = await door.Score(request(case, next(numbers)), timeout=CALL_S)
            note(measured, case, reply.verdict, time.perf_counter() - started)

        async def call_until(end: float) -> None:
            while time.perf_counter() < end:
                await ask(next(cases))

        await asyncio.gather(*(ask(next(cases)) for _ in range(max(WARM_CALLS, concurrency))))
        measured.latencies_s.clear()
        measured.bomb_latencies_s.clear()
        cpu_before, started = roles.cpu_s(), time.perf_counter()
        await asyncio.gather(*(call_until(started + seconds) for _ in range(concurrency)))
        measured.seconds = time.perf_counter() - started
        measured.cpu_s = roles.cpu_s() - cpu_before
    return measured


def note(measured: Measured, case: Answered, verdict: types_pb2.Verdict, latency_s: float) -> None:
    """A verdict that is not the known one is a failure of the benchmark, whatever its speed."""
    is_bomb = SOFT_BOMB in case.response or HARD_BOMB in case.response
    (measured.bomb_latencies_s if is_bomb else measured.latencies_s).append(latency_s)
    if not verdict.HasField("score") or verdict.score != case.score:
        status = types_pb2.VerdictStatus.Name(verdict.status)
        measured.wrong.append(f"{status} {verdict.evidence[:200]} instead of {case.score}")
