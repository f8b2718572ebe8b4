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
from contextlib import AbstractAsyncContextManager

from forklight.v1 import reward_pb2, reward_pb2_grpc
from forklight_core.errors import ForklightError, UnavailableError
from forklight_core.lifecycle import sleep_or_stop
from forklight_core.rpc import Registration, RpcServer, serve
from forklight_core.runfile import load_run_file
from forklight_core.settings import ServiceSettings
from forklight_reward import metrics
from forklight_reward.front.assembly import open_front
from forklight_reward.judge.assembly import open_role
from forklight_reward.sandbox.jail_runner import open_jail_runner
from forklight_reward.sandbox.runner import Runner
from forklight_reward.sandbox.tiers.choice import open_runner, prove
from forklight_reward.sandbox.warm import PoolSize
from forklight_reward.servicer import JudgeServicer, RewardServicer, SandboxServicer, VerifierServicer
from forklight_reward.settings import FrontSettings, JudgeSettings, SandboxSettings, VerifierSettings
from forklight_reward.slots import Slots
from forklight_reward.verifier.pool import MathPool

logger = logging.getLogger(__name__)


def service_name(name: str) -> str:
    """Full proto name of a service of reward.proto."""
    return reward_pb2.DESCRIPTOR.services_by_name[name].full_name


def open_door(
    settings: ServiceSettings, door: Registration, stop: asyncio.Event
) -> AbstractAsyncContextManager[RpcServer]:
    """The door of a worker, which serves once the worker says so and until it is told to stop."""
    return serve(settings.listen, [door], serving=False, stop=stop, health_listen=settings.health_listen)


async def run_front(settings: FrontSettings, stop: asyncio.Event) -> None:
    """Take, score, submit until `stop`; then drain."""
    async with open_front(settings) as front:
        door = Registration(
            reward_pb2_grpc.add_RewardServicer_to_server,
            RewardServicer(front.scorer, front.lanes),
            service_name("Reward"),
        )
        async with serve(settings.listen, [door], stop=stop, health_listen=settings.health_listen):
            await front.run(stop)


async def run_verifier(settings: VerifierSettings, stop: asyncio.Event) -> None:
    """Verify until `stop`. The first worker process is warm before the door says so."""
    num_processes = load_run_file(settings.run_file).reward.verifier_processes
    pool = MathPool(num_processes)
    slots = Slots(pool.most_calls, name="verifier")
    servicer = VerifierServicer(pool, slots)
    door = Registration(reward_pb2_grpc.add_VerifierServicer_to_server, servicer, service_name("Verifier"))
    try:
        async with open_door(settings, door, stop) as server:
            await asyncio.to_thread(pool.warm_up)
            await server.set_serving(True)
            await stop.wait()
    finally:
        await asyncio.to_thread(slots.close)
        await asyncio.to_thread(pool.close)


async def run_sandbox(settings: SandboxSettings, stop: asyncio.Event) -> None:
    """Run programs until `stop`; say NOT_SERVING while the tier of the run file does not hold."""
    slots = Slots(settings.sandbox_slots or os.cpu_count() or 1, name="sandbox")
    servicer = SandboxServicer(slots)
    door = Registration(reward_pb2_grpc.add_SandboxServicer_to_server, servicer, service_name("Sandbox"))
    try:
        async with open_door(settings, door, stop) as server:
            await prove_runner(servicer, server, settings, stop)
            await stop.wait()
    finally:
        await asyncio.to_thread(slots.close)
        if servicer.runner is not None:
            await asyncio.to_thread(servicer.runner.close)


async def prove_runner(
    servicer: SandboxServicer, server: RpcServer, settings: SandboxSettings, stop: asyncio.Event
) -> None:
    """Self-test until it passes; a tier that does not hold serves nothing but says why."""
    while not stop.is_set():
        try:
            servicer.runner = await asyncio.to_thread(open_tested_runner, settings)
        except UnavailableError as error:
            logger.error("sandbox does not serve", extra={"reason": str(error)})
            await sleep_or_stop(stop, settings.self_test_every_s)
        else:
            await server.set_serving(True)
            return


def open_tested_runner(settings: SandboxSettings) -> Runner:
    """A runner that has held."""
    warm = PoolSize(
        num_ready=settings.sandbox_warm_jails,
        max_ready=settings.sandbox_max_warm_jails,
        max_idle_s=settings.sandbox_warm_idle_s,
    )
    runner = open_runner(
        load_run_file(settings.run_file).reward.sandbox,
        jails=lambda: open_jail_runner(
            warm=warm if warm.num_ready and warm.max_ready else None, compiler=settings.sandbox_compiler
        ),
    )
    try:
        prove(runner, compiler=settings.sandbox_compiler)
    except ForklightError:
        runner.close()
        raise
    return runner


async def run_judge(settings: JudgeSettings, stop: asyncio.Event) -> None:
    """Judge until `stop`; say NOT_SERVING while the judge pays for answers that are worth nothing."""
    async with open_role(settings) as role:
        servicer = JudgeServicer(role.desk)
        door = Registration(reward_pb2_grpc.add_JudgeServicer_to_server, servicer, service_name("Judge"))
        async with open_door(settings, door, stop) as server:
            metrics.set_judge_ready(False)
            if await role.prove(stop):
                servicer.is_proven = True
                metrics.set_judge_ready(True)
                await server.set_serving(True)
                await role.upkeep.run(stop)
