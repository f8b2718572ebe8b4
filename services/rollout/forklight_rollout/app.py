"""A rollout pod, wired.

                    WeightsWatcher --stage, swap--> engine thread (Generator over an Engine)
                          |                            ^      |
    Redis: weights, tasks,+--> Worker --groups---------'      '--finished samples--> Worker --> blobs, buffer
           evaluate               '-- LeaseKeeper: heartbeat
    HTTP clients (when http_listen is set) <--> GenerationService <--groups, tokens--> engine thread
    Worker <--calls, replies--> ToolDesk --programs--> sandbox (when the run file's [tools] has names)
    Fitness: looks every second, takes the pod out of service and back (health, Worker)

The door opens first and says NOT_SERVING until the first weights are in use and have passed their probe. Told
to stop, it stops taking, finishes within rollout.drain_s, submits, hands the other leases back and closes.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.asyncio import Redis

from forklight.v1 import rollout_pb2, rollout_pb2_grpc
from forklight_core.blobs import BlobStore, open_blob_store
from forklight_core.errors import ForklightError, VersionSkewError
from forklight_core.lifecycle import sleep_or_stop
from forklight_core.queues import RedisWorkQueue, RunKeys, WorkQueue, connect_redis, read_weights
from forklight_core.rpc import Registration, open_channel, serve
from forklight_core.runfile import RunFile, largest_window, load_run_file
from forklight_core.runfile.schema import RolloutSection
from forklight_model.chat import load_chat_format
from forklight_model.tokenizer import load_tokenizer
from forklight_rollout import metrics
from forklight_rollout.adapters.buffer_rpc import RpcBuffer
from forklight_rollout.admission import Capability
from forklight_rollout.engines import choose_engine
from forklight_rollout.fitness import CollapseGuard, CollapseRules, Fitness
from forklight_rollout.generation.engine_thread import EngineThread
from forklight_rollout.generation.generator import Generator
from forklight_rollout.http.plan import Backend
from forklight_rollout.http.server import open_http
from forklight_rollout.leases.blob_calls import BlobCalls
from forklight_rollout.leases.buffer_calls import BufferCalls
from forklight_rollout.leases.held_groups import HeldGroups
from forklight_rollout.leases.intake import Intake, TaskReader
from forklight_rollout.leases.lease_keeper import LeaseKeeper
from forklight_rollout.leases.saving import SegmentSaver
from forklight_rollout.leases.segments import SegmentStore
from forklight_rollout.leases.submission import Provenance, Submission
from forklight_rollout.leases.two_queues import EvaluationShare, TwoQueues
from forklight_rollout.ports import EngineFactory
from forklight_rollout.problems import Area, Problems
from forklight_rollout.servicer import RolloutServicer
from forklight_rollout.settings import RolloutSettings
from forklight_rollout.status import PodStatus
from forklight_rollout.tools.assembly import PodTools, check_tools, open_desk, open_tools
from forklight_rollout.weights.arrival import open_source
from forklight_rollout.weights.swap_policy import SwapCache, SwapPolicy, SwapRules
from forklight_rollout.weights.watcher import FirstWeights, WeightsWatcher
from forklight_rollout.worker import Worker, WorkerLimits

SERVICE_NAME = rollout_pb2.DESCRIPTOR.services_by_name["Rollout"].full_name
METRICS_EVERY_S = 1.0
CONTRACT_DEADLINE_S = 5.0
CONTRACT_POLL_S = 2.0


async def run(
    settings: RolloutSettings, stop: asyncio.Event, *, make_engine: EngineFactory | None = None
) -> None:
    """Serve until `stop` is set and the pod has drained. `make_engine`: other engines than the run file's."""
    run_file = load_run_file(settings.run_file)
    check_tools(settings, run_file.tools)
    pod = settings.pod or f"rollout-{os.getpid()}"
    redis = connect_redis(settings.redis_url)
    problems = Problems()
    watcher = _make_watcher(settings, run_file, redis, problems)
    status = PodStatus(pod=pod, problems=problems, watcher=watcher)
    door = Registration(rollout_pb2_grpc.add_RolloutServicer_to_server, RolloutServicer(status), SERVICE_NAME)
    async with AsyncExitStack() as closing:
        closing.push_async_callback(redis.aclose)
        server = await closing.enter_async_context(
            serve(settings.listen, [door], serving=False, stop=stop, health_listen=settings.health_listen)
        )
        http = await closing.enter_async_context(open_http(settings))
        channel = await closing.enter_async_context(open_channel(settings.buffer_address))
        first = await watcher.wait_first(make_engine or choose_engine(settings, run_file), stop)
        if first is None:
            return
        buffer = BufferCalls(
            door=RpcBuffer(channel, settings.run_id), problems=problems, deadline_s=settings.submit_deadline_s
        )
        tools = await closing.enter_async_context(open_tools(settings, run_file.tools))
        pod_parts = _make_parts(settings, run_file, redis, pod=pod, buffer=buffer, tools=tools)
        status.thread, status.worker = assemble_worker(pod_parts, first)
        watcher.saved = status.worker.saver
        closing.callback(first.engine.close)
        closing.push_async_callback(status.thread.close)
        fitness = Fitness(
            status.thread,
            status.worker,
            problems=problems,
            guard=CollapseGuard(_collapse_rules(run_file.rollout)),
            set_serving=server.set_serving,
        )
        await _wait_same_contract(channel, problems, stop)
        await server.set_serving(True)
        http.open(_http_backend(status.thread, status.worker, first, problems))
        async with http.draining_when(stop, run_file.rollout.drain_s):
            await _work(status.worker, status.thread, watcher, first, fitness, stop)


async def _wait_same_contract(channel: grpc.aio.Channel, problems: Problems, stop: asyncio.Event) -> None:
    """While the buffer is of another version every task would be handed back: take none, and say why."""
    health = health_pb2_grpc.HealthStub(channel)
    while not stop.is_set():
        try:
            await health.Check(health_pb2.HealthCheckRequest(), timeout=CONTRACT_DEADLINE_S)
        except VersionSkewError as error:
            problems.report(Area.BUFFER, str(error))
            await sleep_or_stop(stop, CONTRACT_POLL_S)
        except ForklightError:
            return  # it is away: every call waits for it by itself
        else:
            problems.clear(Area.BUFFER)
            return


async def _work(
    worker: Worker,
    thread: EngineThread,
    watcher: WeightsWatcher,
    first: FirstWeights,
    fitness: Fitness,
    stop: asyncio.Event,
) -> None:
    """The worker, and beside it new weights, fitness and metrics for as long as it runs."""
    async with asyncio.TaskGroup() as group:
        beside = [
            group.create_task(fitness.run()),
            group.create_task(watcher.run(first.engine, thread, stop)),
            group.create_task(_report(thread, worker)),
        ]
        await worker.run(stop)
        for task in beside:
            task.cancel()


@dataclass(frozen=True, slots=True, kw_only=True)
class PodParts:
    """What a worker is put together from, besides the engine."""

    pod: str
    run_id: str
    queue: WorkQueue
    blobs: BlobStore
    buffer: BufferCalls
    lease_s: float
    drain_s: float
    evaluate: WorkQueue | None = None
    """The queue of evaluation rounds; None: there is none."""
    share: EvaluationShare = field(
        default_factory=lambda: EvaluationShare(max_share=1.0, samples_per_group=1)
    )
    largest_window: int = 0
    """Length window the engine was planned for; 0: whatever fits."""
    segment_tokens: int = 0
    tools: PodTools = field(default_factory=PodTools)


def assemble_worker(parts: PodParts, first: FirstWeights) -> tuple[EngineThread, Worker]:
    """A worker and its engine thread, neither started."""
    tokenizer = load_tokenizer(first.weights.folder)
    thread = EngineThread(Generator(first.engine, decode=tokenizer.decode))
    capability = Capability(
        limits=thread.limits,
        encode=tokenizer.encode_prompt,
        stop_ids=tokenizer.stop_ids,
        tools=frozenset(parts.tools.tools),
        largest_window=parts.largest_window,
    )
    contract = first.weights.manifest.contract
    blobs = BlobCalls(store=parts.blobs, problems=parts.buffer.problems)
    store = SegmentStore(blobs=blobs, buffer=parts.buffer, contract=contract)
    saver = SegmentSaver(engine=thread, held=HeldGroups(), store=store, segment_tokens=parts.segment_tokens)
    queue = _join_queues(parts, saver.held, thread.limits.num_sequences)
    keeper = LeaseKeeper(queue, saver, problems=parts.buffer.problems, pod=parts.pod, lease_s=parts.lease_s)
    intake = Intake(
        queue=queue,
        engine=thread,
        held=saver.held,
        reader=TaskReader(run_id=parts.run_id, capability=capability),
        buffer=parts.buffer,
        store=store,
    )
    provenance = Provenance(pod=parts.pod, contract=contract, decode=tokenizer.decode)
    submission = Submission(
        blobs=blobs, buffer=parts.buffer, held=saver.held, keeper=keeper, provenance=provenance
    )
    desk = open_desk(parts.tools, tokenizer, thread, parts.buffer.problems)
    return thread, Worker(intake, submission, saver, WorkerLimits(drain_s=parts.drain_s), desk)


def _make_parts(
    settings: RolloutSettings,
    run_file: RunFile,
    redis: Redis,
    *,
    pod: str,
    buffer: BufferCalls,
    tools: PodTools,
) -> PodParts:
    keys, evaluation = RunKeys(settings.run_id), run_file.evaluation
    return PodParts(
        pod=pod,
        run_id=settings.run_id,
        queue=_open_queue(redis, keys.tasks, run_file),
        evaluate=_open_queue(redis, keys.evaluate, run_file),
        share=EvaluationShare(
            max_share=evaluation.max_share, samples_per_group=evaluation.samples_per_prompt
        ),
        largest_window=largest_window(run_file),
        blobs=open_blob_store(settings.blobs_url),
        buffer=buffer,
        lease_s=run_file.buffer.lease_s,
        drain_s=run_file.rollout.drain_s,
        segment_tokens=run_file.rollout.segment_tokens,
        tools=tools,
    )


def _make_watcher(
    settings: RolloutSettings, run_file: RunFile, redis: Redis, problems: Problems
) -> WeightsWatcher:
    keys = RunKeys(settings.run_id)
    return WeightsWatcher(
        lambda: read_weights(redis, keys),
        run_id=settings.run_id,
        problems=problems,
        poll_s=settings.weights_poll_s,
        rules=_swap_rules(run_file.rollout),
        source=open_source(settings, run_file.publication),
    )


def _open_queue(redis: Redis, stream: str, run_file: RunFile) -> RedisWorkQueue:
    return RedisWorkQueue(
        redis, stream, lease_s=run_file.buffer.lease_s, max_deliveries=run_file.buffer.max_deliveries
    )


def _join_queues(parts: PodParts, held: HeldGroups, num_sequences: int) -> WorkQueue:
    if parts.evaluate is None:
        return parts.queue
    return TwoQueues(parts.queue, parts.evaluate, share=parts.share, held=held, num_sequences=num_sequences)


def _http_backend(thread: EngineThread, worker: Worker, first: FirstWeights, problems: Problems) -> Backend:
    tokenizer = load_tokenizer(first.weights.folder)
    return Backend(
        thread=thread,
        tokenizer=tokenizer,
        chat=load_chat_format(first.weights.folder, tokenizer),
        why_closed=lambda: "it is draining" if worker.is_draining else problems.out_of_service(),
    )


def _swap_rules(rollout: RolloutSection) -> SwapRules:
    return SwapRules(
        policy=SwapPolicy(rollout.swap_policy),
        cache=SwapCache(rollout.swap_cache),
        finish_s=rollout.swap_finish_s,
        probe_tolerance=rollout.probe_tolerance,
    )


def _collapse_rules(rollout: RolloutSection) -> CollapseRules:
    return CollapseRules(share=rollout.collapse_share, collapse_s=rollout.collapse_s)


async def _report(thread: EngineThread, worker: Worker) -> None:
    """Metrics once a second."""
    before, began = thread.reading, time.monotonic()
    while True:
        await asyncio.sleep(METRICS_EVERY_S)
        now, ended = thread.reading, time.monotonic()
        metrics.record_reading(now, before, worker.num_unsubmitted)
        metrics.record_busy((now.model_s - before.model_s) / (ended - began))
        before, began = now, ended
