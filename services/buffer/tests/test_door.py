"""The whole process: app.run, spoken to over gRPC as the other services do."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import cast

from forklight.v1 import buffer_pb2, buffer_pb2_grpc, types_pb2
from forklight_buffer.app import run
from forklight_buffer.rehearsal import Rehearsal, Stage, mixed_reward, samples_of
from forklight_buffer.settings import BufferSettings
from forklight_core import ids
from forklight_core.blobs import open_blob_store
from forklight_core.queues import Lease, RedisWorkQueue, RunKeys, connect_redis, read_weights
from forklight_core.retry import retry_async
from forklight_core.rpc import open_channel
from forklight_core.runfile import dump_run_file

DEADLINE_S = 20.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def settings_of(stage: Stage) -> BufferSettings:
    run_file = stage.folder / "run.toml"
    run_file.write_text(dump_run_file(stage.run_file))
    return BufferSettings(
        run_file=run_file,
        run_folder=stage.folder,
        run_id=stage.run_id,
        listen=f"127.0.0.1:{free_port()}",
        pod="buffer-0",
        redis_url=stage.redis_url,
        blobs_url=f"memory://{stage.run_id}",
    )


@asynccontextmanager
async def serving(settings: BufferSettings) -> AsyncIterator[buffer_pb2_grpc.BufferAsyncStub]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        service = group.create_task(run(settings, stop))
        async with open_channel(settings.listen) as channel:
            stub = cast("buffer_pb2_grpc.BufferAsyncStub", buffer_pb2_grpc.BufferStub(channel))
            request = buffer_pb2.GetStatusRequest(run_id=settings.run_id)
            await retry_async(lambda: stub.GetStatus(request, timeout=5.0), deadline_s=DEADLINE_S)
            yield stub
        stop.set()
        await service


def player_of(stage: Stage) -> Rehearsal:
    """Only to make messages; it has no buffer of its own."""
    return Rehearsal(stage=stage, outside=None, buffer=None, tasks=None, scoring=None)  # type: ignore[arg-type]


def message_of(lease: Lease) -> types_pb2.Lease:
    return types_pb2.Lease(entry_id=lease.entry_id, consumer=lease.consumer, fence=lease.fence)


async def test_a_step_is_trained_when_everyone_talks_grpc(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    settings = settings_of(stage)
    stage = replace(stage, blobs=open_blob_store(settings.blobs_url))
    play = player_of(stage)
    redis = connect_redis(stage.redis_url)
    keys = RunKeys(stage.run_id)
    tasks = RedisWorkQueue(redis, keys.tasks, lease_s=30)
    scoring = RedisWorkQueue(redis, keys.scoring, lease_s=30)
    async with serving(settings) as stub:
        restored = await stub.RestoreTrainer(buffer_pb2.RestoreTrainerRequest(run_id=stage.run_id), timeout=5)
        weights = types_pb2.WeightsRef(
            version=0, manifest="weights/v0/manifest.json", manifest_id="b3:" + "0" * 64
        )
        await stub.AnnounceVersion(
            buffer_pb2.AnnounceVersionRequest(run_id=stage.run_id, epoch=restored.epoch, weights=weights),
            timeout=5,
        )
        assert await read_weights(redis, keys) == weights
        lease_request = buffer_pb2.LeaseBatchRequest(
            run_id=stage.run_id, epoch=restored.epoch, step=1, wait_s=15
        )
        waiting = stub.LeaseBatch(lease_request, timeout=DEADLINE_S)
        for leased in await tasks.take("rollout-0", wait_s=5, max_items=2):
            task = types_pb2.GenerationTask.FromString(leased.body)
            assert b"gold" not in leased.body
            pending = await stub.GetPendingSamples(
                buffer_pb2.GetPendingSamplesRequest(
                    run_id=stage.run_id, group_id=task.envelope.group_id, lease=message_of(leased.lease)
                ),
                timeout=5,
            )
            assert list(pending.indices) == [0, 1]
            for index in pending.indices:
                trajectory = play.trajectory(ids.sample_id(task.envelope.group_id, index))
                reply = await stub.SubmitTrajectory(
                    buffer_pb2.SubmitTrajectoryRequest(trajectory=trajectory, lease=message_of(leased.lease)),
                    timeout=5,
                )
                assert reply.outcome == buffer_pb2.SUBMIT_OUTCOME_ACCEPTED
        for leased in await scoring.take("reward-0", wait_s=5, max_items=10):
            scoring_task = types_pb2.ScoringTask.FromString(leased.body)
            spec = types_pb2.TaskSpec.FromString(stage.blobs.get(scoring_task.spec.id))
            assert spec.gold and scoring_task.kind == spec.kind == "math"
            sample = scoring_task.envelope.sample_id
            verdict = play.verdict(sample, mixed_reward(sample))
            await stub.SubmitVerdict(
                buffer_pb2.SubmitVerdictRequest(verdict=verdict, lease=message_of(leased.lease)), timeout=5
            )
        batch = (await waiting).batch
        assert len(samples_of(batch)) == 4
        record = types_pb2.CommitRecord(
            lineage=restored.lineage, step=1, batch_id=batch.batch_id, sample_ids=samples_of(batch)
        )
        committed = await stub.CommitSteps(
            buffer_pb2.CommitStepsRequest(run_id=stage.run_id, epoch=restored.epoch, records=[record]),
            timeout=5,
        )
        assert committed.num_trained == 4
        status = await stub.GetStatus(buffer_pb2.GetStatusRequest(run_id=stage.run_id), timeout=5)
        assert (status.step, status.phase, status.lineage) == (
            1,
            buffer_pb2.RUN_PHASE_RUNNING,
            restored.lineage,
        )
        trained = await stub.ListSamples(
            buffer_pb2.ListSamplesRequest(run_id=stage.run_id, state=types_pb2.SAMPLE_STATE_TRAINED),
            timeout=5,
        )
        assert [item.sample_id for item in trained.samples] == sorted(samples_of(batch))
    await redis.aclose()
