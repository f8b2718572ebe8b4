"""A whole pod in this process: real Redis, real gRPC, the real nano model, a buffer that only remembers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import blake3
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from forklight.v1 import buffer_pb2, buffer_pb2_grpc, rollout_pb2, rollout_pb2_grpc, types_pb2
from forklight_core import ids
from forklight_core.blobs import open_blob_store
from forklight_core.errors import UnavailableError
from forklight_core.ports import free_ports
from forklight_core.queues import Lease, RedisWorkQueue, RunKeys, connect_redis
from forklight_core.redis_server import EmbeddedRedis, start_embedded
from forklight_core.rpc import Registration, open_channel, serve
from forklight_core.rpc.version import own_version
from forklight_core.wire import unpack_payload
from forklight_kernels.contract import contract_hash
from forklight_model.tokenizer import build_character_tokenizer
from forklight_rollout.adapters.memory import MemoryEngine
from forklight_rollout.adapters.memory_buffer import MemoryBuffer
from forklight_rollout.app import run
from forklight_rollout.ports import Engine, EngineLimits, SubmitOutcome
from forklight_rollout.settings import RolloutSettings
from forklight_rollout.weights.manifest import PublishedWeights

RUN_ID = "test-run"
Publish = Callable[[int], types_pb2.WeightsRef]

OUTCOMES = {
    SubmitOutcome.ACCEPTED: buffer_pb2.SUBMIT_OUTCOME_ACCEPTED,
    SubmitOutcome.DUPLICATE: buffer_pb2.SUBMIT_OUTCOME_DUPLICATE,
    SubmitOutcome.DROPPED: buffer_pb2.SUBMIT_OUTCOME_DROPPED,
}


class BufferServicer(buffer_pb2_grpc.BufferServicer):
    """The rollout side of the buffer's door, before a MemoryBuffer."""

    def __init__(self, buffer: MemoryBuffer) -> None:
        self.buffer = buffer

    async def GetPendingSamples(
        self, request: buffer_pb2.GetPendingSamplesRequest, context: grpc.ServicerContext
    ) -> buffer_pb2.GetPendingSamplesReply:
        pending = await self.buffer.pending_samples(request.group_id, lease_of(request.lease))
        return buffer_pb2.GetPendingSamplesReply(indices=[sample.index for sample in pending])

    async def SubmitTrajectories(
        self, request: buffer_pb2.SubmitTrajectoriesRequest, context: grpc.ServicerContext
    ) -> buffer_pb2.SubmitManyReply:
        outcomes = [await self.buffer.submit(item.trajectory, lease_of(item.lease)) for item in request.items]
        return buffer_pb2.SubmitManyReply(
            results=[buffer_pb2.SubmitResult(outcome=OUTCOMES[outcome]) for outcome in outcomes]
        )


def lease_of(lease: types_pb2.Lease) -> Lease:
    return Lease(entry_id=lease.entry_id, consumer=lease.consumer, fence=lease.fence)


class Surroundings:
    """What a pod finds when it starts."""

    def __init__(self, redis_url: str, folder: Path, buffer_address: str, queue: RedisWorkQueue) -> None:
        self.queue = queue
        self.buffer = MemoryBuffer(num_samples=4, queue=queue)
        self.redis = connect_redis(redis_url)
        self.keys = RunKeys(RUN_ID)
        self.stop = asyncio.Event()
        (folder / "run.toml").write_text("[sampling]\nmax_new_tokens = 64\n[rollout]\nmax_batch = 4\n")
        self.settings = RolloutSettings(
            run_file=folder / "run.toml",
            run_folder=folder,
            run_id=RUN_ID,
            listen=f"127.0.0.1:{free_ports(1)[0]}",
            pod="rollout-0",
            redis_url=redis_url,
            blobs_url=f"file://{folder}/blobs",
            buffer_address=buffer_address,
            device="cpu",
            weights_poll_s=0.02,
            max_prompt_tokens=64,
        )

    async def announce(self, reference: types_pb2.WeightsRef) -> None:
        await self.redis.set(self.keys.weights, reference.SerializeToString())

    async def put_task(self, index: int, **fields: object) -> None:
        task = make_task(index)
        for name, value in fields.items():
            setattr(task if hasattr(task, name) else task.sampling, name, value)
        await self.queue.put(task.SerializeToString())

    async def status(self) -> rollout_pb2.GetRolloutStatusReply:
        async with open_channel(self.settings.listen) as channel:
            stub = cast("rollout_pb2_grpc.RolloutAsyncStub", rollout_pb2_grpc.RolloutStub(channel))
            return await stub.GetRolloutStatus(rollout_pb2.GetRolloutStatusRequest(), timeout=5)

    async def answers(self, expected: health_pb2.HealthCheckResponse.ServingStatus) -> bool:
        """Whether the pod's health is this."""
        async with open_channel(self.settings.listen) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            with contextlib.suppress(UnavailableError):
                reply = await stub.Check(health_pb2.HealthCheckRequest(service="ready"), timeout=1)
                return bool(reply.status == expected)
            return False

    async def has_problem(self, text: str) -> bool:
        return text in (await self.status()).problem

    async def has_counted(self, num_samples: int) -> bool:
        """Whether the pod knows that so many were accepted: it hears it after the buffer does."""
        with contextlib.suppress(UnavailableError):
            return (await self.status()).num_samples == num_samples
        return False

    async def has_version(self, version: int) -> bool:
        return (await self.status()).version == version

    async def is_running(self, number: int) -> bool:
        with contextlib.suppress(UnavailableError):
            return (await self.status()).num_running == number
        return False

    async def drain(self, deadline_s: float) -> rollout_pb2.DrainReply:
        async with open_channel(self.settings.listen) as channel:
            stub = cast("rollout_pb2_grpc.RolloutAsyncStub", rollout_pb2_grpc.RolloutStub(channel))
            return await stub.Drain(rollout_pb2.DrainRequest(deadline_s=deadline_s), timeout=20)


def make_task(index: int) -> types_pb2.GenerationTask:
    return types_pb2.GenerationTask(
        envelope=types_pb2.Envelope(schema_version=1, run_id=RUN_ID, group_id=f"{RUN_ID}/g{index:08d}"),
        prompt_id=f"p{index}",
        prompt="What is 2 + 2?",
        sampling=types_pb2.Sampling(num_samples=4, max_new_tokens=12, temperature=1.0, top_p=1.0, seed=9),
        purpose=types_pb2.PURPOSE_TRAIN,
    )


def with_probe(reference: types_pb2.WeightsRef, *, logprob: float) -> types_pb2.WeightsRef:
    """The version again, with a probe that says this of every token."""
    path = Path(reference.manifest)
    mode = {"is_parity": False, "contract": "", "device": "cpu", "torch": "", "triton": ""}
    probe = {"ids": [1, 2, 3], "logprobs": [logprob] * 2, "mode": mode}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"probe": probe}))
    manifest_id = "b3:" + blake3.blake3(path.read_bytes()).hexdigest()
    return types_pb2.WeightsRef(
        version=reference.version, manifest=reference.manifest, manifest_id=manifest_id
    )


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    with start_embedded(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
async def surroundings(redis_server: EmbeddedRedis, tmp_path: Path) -> AsyncIterator[Surroundings]:
    redis = connect_redis(redis_server.url)
    await redis.flushall()
    queue = RedisWorkQueue(redis, RunKeys(RUN_ID).tasks, lease_s=3.0)
    address = f"127.0.0.1:{free_ports(1)[0]}"
    found = Surroundings(redis_server.url, tmp_path, address, queue)
    door = Registration(
        buffer_pb2_grpc.add_BufferServicer_to_server,
        BufferServicer(found.buffer),  # type: ignore[abstract]
        "forklight.v1.Buffer",
    )
    async with serve(address, [door]):
        yield found
    await found.redis.aclose()
    await redis.aclose()


@contextlib.asynccontextmanager
async def running_pod(found: Surroundings) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(run(found.settings, found.stop))
    try:
        yield task
    finally:
        found.stop.set()
        await task


async def eventually(condition: Callable[[], Awaitable[bool]], *, within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


async def test_a_pod_generates_and_submits_what_is_on_the_queue(
    surroundings: Surroundings, publish: Publish
) -> None:
    await surroundings.announce(publish(0))
    for index in range(3):
        await surroundings.put_task(index)
    accepted = surroundings.buffer.accepted
    async with running_pod(surroundings):
        await eventually(lambda: surroundings.has_counted(12))
        status = await surroundings.status()
    assert len(accepted) == 12
    assert (status.version, status.problem) == (0, "")
    assert (await surroundings.queue.stats()).num_waiting == 0
    trajectory = accepted[f"{RUN_ID}/g00000001/s002"]
    arrays = unpack_payload(open_blob_store(surroundings.settings.blobs_url).get(trajectory.payload.id))
    assert arrays.sample_id == trajectory.envelope.sample_id
    assert len(arrays.response_ids) == trajectory.num_response_tokens <= 12
    assert arrays.text == build_character_tokenizer().decode(arrays.response_ids.tolist())
    assert (trajectory.pod, trajectory.envelope.attempt, arrays.contract) == ("rollout-0", 1, "test-contract")
    assert [(span.start, span.version) for span in trajectory.version_spans] == [(0, 0)]


async def test_a_pod_says_its_numeric_mode_and_records_routing_for_training_only(
    surroundings: Surroundings, publish: Publish
) -> None:
    with surroundings.settings.run_file.open("a") as run_file:
        run_file.write("[parity]\nrouting_replay = true\n")
    await surroundings.announce(publish(0))
    await surroundings.put_task(0)
    await surroundings.put_task(1, purpose=types_pb2.PURPOSE_EVALUATE)
    accepted = surroundings.buffer.accepted
    async with running_pod(surroundings):
        await eventually(lambda: asyncio.sleep(0, len(accepted) == 8))
        mode = (await surroundings.status()).numeric_mode
    assert (mode.is_parity, mode.device, mode.contract) == (False, "cpu", contract_hash())
    assert "torch" in mode.reason
    blobs = open_blob_store(surroundings.settings.blobs_url)
    for sample_id, trajectory in accepted.items():
        routing = unpack_payload(blobs.get(trajectory.payload.id)).routing
        if ids.group_of(sample_id) == f"{RUN_ID}/g00000001":
            assert routing is None
        else:
            num_fed = trajectory.num_prompt_tokens + trajectory.num_response_tokens - 1
            assert routing is not None and len(routing.experts) == num_fed


async def test_a_pod_without_weights_is_not_serving_and_says_why(surroundings: Surroundings) -> None:
    async with running_pod(surroundings):
        await eventually(lambda: surroundings.answers(health_pb2.HealthCheckResponse.NOT_SERVING))
        status = await surroundings.status()
    assert "no weights announced yet" in status.problem


async def test_a_pod_that_joins_serves_and_takes_work_only_once_it_has_proven_itself(
    surroundings: Surroundings, publish: Publish
) -> None:
    may_score = threading.Event()

    class SlowToProve(MemoryEngine):
        def score(self, ids: Sequence[int]) -> Sequence[float]:
            may_score.wait(30)
            return super().score(ids)

    def make_engine(weights: PublishedWeights) -> Engine:
        limits = EngineLimits(num_sequences=4, max_tokens=128, vocabulary_size=103)
        return SlowToProve(limits, version=weights.version)

    await surroundings.announce(with_probe(publish(0), logprob=-math.log(103)))
    await surroundings.put_task(0)
    pod = asyncio.create_task(run(surroundings.settings, surroundings.stop, make_engine=make_engine))
    await eventually(lambda: surroundings.answers(health_pb2.HealthCheckResponse.NOT_SERVING))
    assert not (await surroundings.status()).HasField("probe")
    assert (await surroundings.queue.stats()).num_leased == 0
    may_score.set()
    await eventually(lambda: surroundings.answers(health_pb2.HealthCheckResponse.SERVING))
    await eventually(lambda: surroundings.has_counted(4))
    status = await surroundings.status()
    surroundings.stop.set()
    await pod
    assert status.probe.outcome == rollout_pb2.PROBE_OUTCOME_WITHIN
    assert (status.probe.version, status.probe.num_compared) == (0, 2)
    assert (status.out_of_service, status.swap_policy, status.swap_cache) == ("", "keep", "keep")


async def test_a_pod_of_another_version_than_the_buffer_takes_no_task(
    surroundings: Surroundings,
    publish: Publish,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = ["7/9.9.9"]
    monkeypatch.setattr("forklight_core.rpc.client.own_version", lambda: told[0])
    await surroundings.announce(publish(0))
    await surroundings.put_task(0)
    async with running_pod(surroundings):
        await eventually(
            lambda: asyncio.sleep(0, any("contract 7" in str(vars(record)) for record in caplog.records))
        )
        assert (await surroundings.queue.stats()).num_waiting == 1
        told[0] = own_version()
        await eventually(lambda: surroundings.has_counted(4))


async def test_weights_swap_while_samples_run_and_a_torn_version_does_not(
    surroundings: Surroundings, publish: Publish
) -> None:
    await surroundings.announce(publish(0))
    for index in range(2):
        await surroundings.put_task(index, max_new_tokens=60)
    accepted = surroundings.buffer.accepted
    async with running_pod(surroundings):
        await eventually(lambda: surroundings.answers(health_pb2.HealthCheckResponse.SERVING))
        torn = publish(1)
        shard = next(Path(torn.manifest).parent.glob("*.safetensors"))
        data = shard.read_bytes()
        shard.write_bytes(data[:-1] + b"\x7f")
        await surroundings.announce(torn)
        await eventually(lambda: surroundings.has_problem("hashes to"))
        shard.write_bytes(data)
        await eventually(lambda: asyncio.sleep(0, len(accepted) == 8))
        await eventually(lambda: surroundings.has_version(1))
        status = await surroundings.status()
    assert status.problem == ""
    assert 0 < status.last_swap_s < 1
    assert all(trajectory.version_spans[0].start == 0 for trajectory in accepted.values())


async def test_a_drain_over_grpc_hands_leases_back(surroundings: Surroundings, publish: Publish) -> None:
    await surroundings.announce(publish(0))
    for index in range(3):
        await surroundings.put_task(index, max_new_tokens=64)
    async with running_pod(surroundings):
        await eventually(lambda: surroundings.is_running(4))
        reply = await surroundings.drain(0.0)
        assert reply.num_released >= 1
        status = await surroundings.status()
        assert (status.draining, status.num_running) == (True, 0)
    taken = [
        leased
        for _ in range(2)  # what was handed back, then what nobody has taken
        for leased in await surroundings.queue.take("other", wait_s=0, max_items=9)
    ]
    open_groups = 3 - len({name.rpartition("/")[0] for name in surroundings.buffer.accepted})
    assert len(taken) >= open_groups > 0


async def test_generation_is_one_span_in_the_trace_of_its_sample(
    surroundings: Surroundings, publish: Publish, spans: InMemorySpanExporter
) -> None:
    await surroundings.announce(publish(0))
    await surroundings.put_task(0)
    accepted = surroundings.buffer.accepted
    async with running_pod(surroundings):
        await eventually(lambda: asyncio.sleep(0, len(accepted) == 4))
    for sample_id, trajectory in accepted.items():
        trace_id = ids.trace_id(sample_id)
        found = {span.name: span for span in spans.get_finished_spans() if span.context.trace_id == trace_id}
        generated = found["rollout.generate"]
        assert generated.parent is not None
        assert generated.parent.span_id == ids.root_span_id(sample_id)
        assert trajectory.envelope.traceparent == f"00-{trace_id:032x}-{generated.context.span_id:016x}-01"
        assert generated.attributes is not None
        assert generated.attributes["rl.tokens.response"] == trajectory.num_response_tokens
        assert generated.start_time == pytest.approx(trajectory.started_at * 1e9, abs=1e3)
