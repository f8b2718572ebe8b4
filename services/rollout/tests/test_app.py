"""A whole pod in this process: real Redis, real gRPC, the real nano model, a buffer that only remembers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import grpc
import pytest

from forklight.v1 import buffer_pb2, buffer_pb2_grpc, rollout_pb2, rollout_pb2_grpc, types_pb2
from forklight_core.blobs import open_blob_store
from forklight_core.queues import Lease, RedisWorkQueue, RunKeys, connect_redis
from forklight_core.ports import free_ports
from forklight_core.redis_server import EmbeddedRedis, start_embedded
from forklight_core.rpc import Registration, open_channel, serve
from forklight_core.wire import unpack_payload
from forklight_model.tokenizer import build_character_tokenizer
from forklight_rollout.adapters.memory import MemoryBuffer
from forklight_rollout.app import run
from forklight_rollout.ports import SubmitOutcome
from forklight_rollout.settings import RolloutSettings

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
        indices = await self.buffer.pending_samples(request.group_id, lease_of(request.lease))
        return buffer_pb2.GetPendingSamplesReply(indices=indices)

    async def SubmitTrajectory(
        self, request: buffer_pb2.SubmitTrajectoryRequest, context: grpc.ServicerContext
    ) -> buffer_pb2.SubmitReply:
        outcome = await self.buffer.submit(request.trajectory, lease_of(request.lease))
        return buffer_pb2.SubmitReply(outcome=OUTCOMES[outcome])


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
            stub = rollout_pb2_grpc.RolloutStub(channel)
            return await stub.GetRolloutStatus(rollout_pb2.GetRolloutStatusRequest(), timeout=5)


def make_task(index: int) -> types_pb2.GenerationTask:
    return types_pb2.GenerationTask(
        envelope=types_pb2.Envelope(schema_version=1, run_id=RUN_ID, group_id=f"{RUN_ID}/g{index:08d}"),
        prompt_id=f"p{index}",
        prompt="What is 2 + 2?",
        sampling=types_pb2.Sampling(num_samples=4, max_new_tokens=12, temperature=1.0, top_p=1.0, seed=9),
        purpose=types_pb2.PURPOSE_TRAIN,
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
        BufferServicer(found.buffer),
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


async def eventually(condition: Callable[[], Awaitable[bool]], *, within_s: float = 10.0) -> None:
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
        await eventually(lambda: asyncio.sleep(0, len(accepted) == 12))
        status = await surroundings.status()
    assert (status.num_samples, status.version, status.problem) == (12, 0, "")
    assert (await surroundings.queue.stats()).num_waiting == 0
    trajectory = accepted[f"{RUN_ID}/g00000001/s002"]
    arrays = unpack_payload(open_blob_store(surroundings.settings.blobs_url).get(trajectory.payload.id))
    assert arrays.sample_id == trajectory.envelope.sample_id
    assert len(arrays.response_ids) == trajectory.num_response_tokens <= 12
    assert arrays.text == build_character_tokenizer().decode(arrays.response_ids.tolist())
    assert (trajectory.pod, trajectory.envelope.attempt, arrays.contract) == ("rollout-0", 1, "test-contract")
    assert [(span.start, span.version) for span in trajectory.version_spans] == [(0, 0)]
