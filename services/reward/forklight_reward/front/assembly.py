"""The front door, wired: channels to its workers, what it keeps in the run folder, its two doors."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc.aio

from forklight_core.blobs import open_blob_store
from forklight_core.queues import RedisWorkQueue, RunKeys, connect_redis
from forklight_core.rpc import open_channel
from forklight_core.runfile import RunFile, load_run_file
from forklight_reward.adapters.grpc import GrpcBuffer, GrpcJudge, GrpcSandbox, GrpcVerifier
from forklight_reward.audit.log import FOLDER as AUDIT_FOLDER
from forklight_reward.audit.log import AuditLog
from forklight_reward.audit.recall import recall_outcomes
from forklight_reward.front.attempts import Attempts
from forklight_reward.front.fleet import Fleet, fleet_of
from forklight_reward.front.known import KnownOutcomes
from forklight_reward.front.lanes import Lanes, Sorter
from forklight_reward.front.quick import QuickVerifier
from forklight_reward.front.reward import policy_of
from forklight_reward.front.scorer import Scorer
from forklight_reward.settings import FrontSettings
from forklight_reward.shaping.shaper import FOLDER as SHAPING_FOLDER
from forklight_reward.shaping.shaper import Shaper
from forklight_reward.worker import Desk, ScoringWorker, WorkerLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """What the role runs."""

    scorer: Scorer
    lanes: Lanes
    worker: ScoringWorker
    audit: AuditLog

    async def run(self, stop: asyncio.Event) -> None:
        """Take, score, submit until `stop`; then drain."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.audit.keep(stop))
            await self.worker.run(stop)


@asynccontextmanager
async def open_front(settings: FrontSettings) -> AsyncIterator[Front]:
    """The front of a run."""
    run_file = load_run_file(settings.run_file)
    policy, blobs = policy_of(run_file), open_blob_store(settings.blobs_url)
    pod = settings.pod or f"reward-{os.getpid()}"
    async with AsyncExitStack() as closing:
        redis = connect_redis(settings.redis_url)
        closing.push_async_callback(redis.aclose)
        audit = AuditLog(settings.run_folder / AUDIT_FOLDER, run_id=settings.run_id, pod=pod)
        await asyncio.to_thread(audit.open)
        closing.push_async_callback(asyncio.to_thread, audit.close)
        known = KnownOutcomes()
        await asyncio.to_thread(recall_outcomes, audit.folder, known)
        fleet = await _open_fleet(settings, closing)
        buffer = await closing.enter_async_context(open_channel(settings.buffer_address))
        scorer = Scorer(
            run_id=settings.run_id,
            blobs=blobs,
            fleet=fleet,
            policy=policy,
            attempts=Attempts(max_attempts=run_file.reward.max_attempts, timeout_s=run_file.reward.timeout_s),
            known=known,
            audit=audit,
            shaper=Shaper(settings.run_folder / SHAPING_FOLDER) if run_file.reward.shaping else None,
        )
        lanes = Lanes(run_file.reward.concurrency)
        worker = ScoringWorker(
            queue=RedisWorkQueue(
                redis,
                RunKeys(settings.run_id).scoring,
                lease_s=run_file.buffer.lease_s,
                max_deliveries=run_file.buffer.max_deliveries,
            ),
            desk=Desk(score=scorer.score_task, sorter=Sorter(blobs), lanes=lanes),
            buffer=GrpcBuffer(buffer),
            limits=_limits(settings, run_file, pod),
        )
        yield Front(scorer=scorer, lanes=lanes, worker=worker, audit=audit)


def _limits(settings: FrontSettings, run_file: RunFile, pod: str) -> WorkerLimits:
    return WorkerLimits(
        pod=pod,
        lease_s=run_file.buffer.lease_s,
        submit_deadline_s=settings.submit_deadline_s,
        drain_s=settings.drain_s,
    )


async def _open_fleet(settings: FrontSettings, closing: AsyncExitStack) -> Fleet:
    """Channels to all workers; each setting may name several addresses."""

    async def open_all(addresses: str) -> list[grpc.aio.Channel]:
        each = [address.strip() for address in addresses.split(",") if address.strip()]
        return [await closing.enter_async_context(open_channel(address)) for address in each]

    return fleet_of(
        [QuickVerifier(behind=GrpcVerifier(each)) for each in await open_all(settings.verifier_address)],
        [GrpcSandbox(each) for each in await open_all(settings.sandbox_address)],
        [GrpcJudge(each) for each in await open_all(settings.judge_address)],
    )
