"""The reward service, wired: one process a role.

                                     +--> verifier   exact rules, then math-verify in killable processes
    scoring queue --take--> front ---+--> sandbox    one jail a run; NOT_SERVING until the self-test passes
                              |      +--> judge      grades 1 to 5, or abstains; serves once canaries pass
        blobs --payload, spec-'
                              '--Verdict--> buffer (settles the queue entry)

A worker that does not answer is asked again until the try is over; after reward.max_attempts tries the
sample gets a verdict without a score. Told to stop, the front stops taking, finishes within drain_s and hands
the other leases back.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import AsyncExitStack

from forklight.v1 import reward_pb2, reward_pb2_grpc
from forklight_core.blobs import open_blob_store
from forklight_core.errors import ForklightError, UnavailableError
from forklight_core.lifecycle import sleep_or_stop
from forklight_core.queues import RedisWorkQueue, RunKeys, connect_redis
from forklight_core.rpc import Registration, RpcServer, open_channel, serve
from forklight_core.runfile import load_run_file
from forklight_reward import metrics
from forklight_reward.adapters.grpc import GrpcBuffer, GrpcJudge, GrpcSandbox, GrpcVerifier
from forklight_reward.front.attempts import Attempts
from forklight_reward.front.quick import QuickVerifier
from forklight_reward.front.reward import policy_of
from forklight_reward.front.route import Router
from forklight_reward.front.scorer import Scorer
from forklight_reward.judge.canaries import check_canaries
from forklight_reward.judge.contract import JudgeEngine
from forklight_reward.judge.engines import open_engine
from forklight_reward.judge.watch import JudgeWatch
from forklight_reward.sandbox.jail import Jail, open_jail
from forklight_reward.sandbox.self_test import run_self_test
from forklight_reward.servicer import JudgeServicer, RewardServicer, SandboxServicer, VerifierServicer
from forklight_reward.settings import FrontSettings, JudgeSettings, SandboxSettings, VerifierSettings
from forklight_reward.slots import Slots
from forklight_reward.verifier.pool import MathPool
from forklight_reward.worker import ScoringWorker, WorkerLimits

logger = logging.getLogger(__name__)


def service_name(name: str) -> str:
    """Full proto name of a service of reward.proto."""
    return reward_pb2.DESCRIPTOR.services_by_name[name].full_name


async def run_front(settings: FrontSettings, stop: asyncio.Event) -> None:
    """Take, score, submit until `stop`; then drain."""
    run_file = load_run_file(settings.run_file)
    policy = policy_of(run_file)
    async with AsyncExitStack() as closing:
        redis = connect_redis(settings.redis_url)
        closing.push_async_callback(redis.aclose)
        verifier, sandbox, judge, buffer = [
            await closing.enter_async_context(open_channel(address))
            for address in (
                settings.verifier_address,
                settings.sandbox_address,
                settings.judge_address,
                settings.buffer_address,
            )
        ]
        scorer = Scorer(
            run_id=settings.run_id,
            blobs=open_blob_store(settings.blobs_url),
            router=Router(
                verifier=QuickVerifier(behind=GrpcVerifier(verifier)),
                sandbox=GrpcSandbox(sandbox),
                judge=GrpcJudge(judge),
            ),
            policy=policy,
            attempts=Attempts(max_attempts=run_file.reward.max_attempts, timeout_s=run_file.reward.timeout_s),
        )
        worker = ScoringWorker(
            queue=RedisWorkQueue(
                redis,
                RunKeys(settings.run_id).scoring,
                lease_s=run_file.buffer.lease_s,
                max_deliveries=run_file.buffer.max_deliveries,
            ),
            score=scorer.score_task,
            buffer=GrpcBuffer(buffer),
            limits=WorkerLimits(
                pod=settings.pod or f"reward-{os.getpid()}",
                concurrency=run_file.reward.concurrency,
                lease_s=run_file.buffer.lease_s,
                submit_deadline_s=settings.submit_deadline_s,
                drain_s=settings.drain_s,
            ),
        )
        door = Registration(
            reward_pb2_grpc.add_RewardServicer_to_server, RewardServicer(scorer), service_name("Reward")
        )
        await closing.enter_async_context(serve(settings.listen, [door]))
        await worker.run(stop)


async def run_verifier(settings: VerifierSettings, stop: asyncio.Event) -> None:
    """Verify until `stop`. The first worker process is warm before the door says so."""
    num_processes = load_run_file(settings.run_file).reward.verifier_processes
    pool, slots = MathPool(num_processes), Slots(num_processes, name="verifier")
    servicer = VerifierServicer(pool, slots)
    door = Registration(reward_pb2_grpc.add_VerifierServicer_to_server, servicer, service_name("Verifier"))
    try:
        async with serve(settings.listen, [door], serving=False) as server:
            await asyncio.to_thread(pool.warm_up)
            await server.set_serving(True)
            await stop.wait()
    finally:
        await asyncio.to_thread(slots.close)
        await asyncio.to_thread(pool.close)


async def run_sandbox(settings: SandboxSettings, stop: asyncio.Event) -> None:
    """Run programs until `stop`; say NOT_SERVING while this machine's jails do not hold."""
    slots = Slots(settings.sandbox_slots or os.cpu_count() or 1, name="sandbox")
    servicer = SandboxServicer(slots)
    door = Registration(reward_pb2_grpc.add_SandboxServicer_to_server, servicer, service_name("Sandbox"))
    try:
        async with serve(settings.listen, [door], serving=False) as server:
            await prove_jail(servicer, server, settings.self_test_every_s, stop)
            await stop.wait()
    finally:
        await asyncio.to_thread(slots.close)


async def prove_jail(
    servicer: SandboxServicer, server: RpcServer, every_s: float, stop: asyncio.Event
) -> None:
    """Self-test until it passes; a machine that cannot make jails serves nothing but says why."""
    while not stop.is_set():
        try:
            servicer.jail = await asyncio.to_thread(open_tested_jail)
        except UnavailableError as error:
            logger.error("sandbox does not serve", extra={"reason": str(error)})
            await sleep_or_stop(stop, every_s)
        else:
            await server.set_serving(True)
            return


def open_tested_jail() -> Jail:
    """A jail that has held."""
    jail = open_jail()
    run_self_test(jail)
    return jail


async def run_judge(settings: JudgeSettings, stop: asyncio.Event) -> None:
    """Judge until `stop`; say NOT_SERVING while the judge pays for answers that are worth nothing."""
    run_file = load_run_file(settings.run_file)
    api_key = settings.judge_api_key.get_secret_value()
    async with open_engine(run_file.reward.judge, api_key=api_key) as engine:
        servicer = JudgeServicer(engine, JudgeWatch(engine, group_size=run_file.sampling.group_size))
        door = Registration(reward_pb2_grpc.add_JudgeServicer_to_server, servicer, service_name("Judge"))
        async with serve(settings.listen, [door], serving=False) as server:
            metrics.set_judge_ready(False)
            if await prove_judge(engine, settings, stop):
                servicer.is_proven = True
                metrics.set_judge_ready(True)
                await server.set_serving(True)
                await stop.wait()


async def prove_judge(engine: JudgeEngine, settings: JudgeSettings, stop: asyncio.Event) -> bool:
    """Ask the canaries until the judge passes; False when told to stop before."""
    stopping = asyncio.ensure_future(stop.wait())
    try:
        while not stop.is_set():
            check = asyncio.ensure_future(check_canaries(engine, timeout_s=settings.canaries_timeout_s))
            await asyncio.wait({check, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not check.done():
                check.cancel()
                await asyncio.wait({check})
                return False
            try:
                logger.info("judge has passed", extra={"judge": engine.version, "num_judged": check.result()})
                return True
            except ForklightError as error:
                logger.error("judge does not serve", extra={"reason": str(error)})
                await sleep_or_stop(stop, settings.canaries_every_s)
        return False
    finally:
        stopping.cancel()
