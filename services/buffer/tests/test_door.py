"""The whole process: app.run, spoken to over gRPC as the other services do."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from redis.asyncio import Redis

from forklight.v1 import buffer_pb2, buffer_pb2_grpc, types_pb2
from forklight_buffer.app import run
from forklight_buffer.rehearsal import Rehearsal, Stage, mixed_reward, run_event, samples_of
from forklight_buffer.settings import BufferSettings
from forklight_core import ids
from forklight_core.blobs import open_blob_store
from forklight_core.errors import (
    BusyError,
    FencedError,
    InvalidInputError,
    PreconditionError,
    UnavailableError,
)
from forklight_core.queues import Lease, RedisWorkQueue, RunKeys, connect_redis, read_weights
from forklight_core.redis_server import start_embedded
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
    return Rehearsal(stage=stage, outside=None, buffer=None, tasks=None, evaluate=None, scoring=None)  # type: ignore[arg-type]


def message_of(lease: Lease) -> types_pb2.Lease:
    return types_pb2.Lease(entry_id=lease.entry_id, consumer=lease.consumer, fence=lease.fence)


async def generate(stage: Stage, stub: buffer_pb2_grpc.BufferAsyncStub, redis: Redis) -> None:
    """Two groups, as a rollout pod does it."""
    tasks = RedisWorkQueue(redis, RunKeys(stage.run_id).tasks, lease_s=30)
    for leased in await tasks.take("rollout-0", wait_s=5, max_items=2):
        group = types_pb2.GenerationTask.FromString(leased.body).envelope.group_id
        lease = message_of(leased.lease)
        assert b"gold" not in leased.body
        request = buffer_pb2.GetPendingSamplesRequest(run_id=stage.run_id, group_id=group, lease=lease)
        pending = await stub.GetPendingSamples(request, timeout=5)
        assert list(pending.indices) == [0, 1]
        submissions = [
            buffer_pb2.SubmitTrajectoryRequest(
                trajectory=player_of(stage).trajectory(ids.sample_id(group, index)), lease=lease
            )
            for index in pending.indices
        ]
        reply = await stub.SubmitTrajectory(submissions[0], timeout=5)
        assert reply.outcome == buffer_pb2.SUBMIT_OUTCOME_ACCEPTED
        many = await stub.SubmitTrajectories(
            buffer_pb2.SubmitTrajectoriesRequest(items=submissions), timeout=5
        )
        assert [result.outcome for result in many.results] == [
            buffer_pb2.SUBMIT_OUTCOME_DUPLICATE,
            buffer_pb2.SUBMIT_OUTCOME_ACCEPTED,
        ]


async def score(stage: Stage, stub: buffer_pb2_grpc.BufferAsyncStub, redis: Redis) -> None:
    """Everything, as the reward service does it."""
    scoring = RedisWorkQueue(redis, RunKeys(stage.run_id).scoring, lease_s=30)
    items = []
    for leased in await scoring.take("reward-0", wait_s=5, max_items=10):
        task = types_pb2.ScoringTask.FromString(leased.body)
        spec = types_pb2.TaskSpec.FromString(stage.blobs.get(task.spec.id))
        assert spec.gold and task.kind == spec.kind == "math"
        sample = task.envelope.sample_id
        verdict = player_of(stage).verdict(sample, mixed_reward(sample))
        items.append(buffer_pb2.SubmitVerdictRequest(verdict=verdict, lease=message_of(leased.lease)))
    stranger = player_of(stage).verdict(ids.sample_id(ids.group_of(sample), 999), 1.0)
    items.insert(1, buffer_pb2.SubmitVerdictRequest(verdict=stranger, lease=message_of(leased.lease)))
    reply = await stub.SubmitVerdicts(buffer_pb2.SubmitVerdictsRequest(items=items), timeout=5)
    refused = reply.results.pop(1)
    assert refused.refusal.error == "NotFoundError"
    assert "s999" in refused.refusal.message
    assert {result.outcome for result in reply.results} == {buffer_pb2.SUBMIT_OUTCOME_ACCEPTED}


async def test_a_step_is_trained_when_everyone_talks_grpc(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    settings, run = settings_of(stage), stage.run_id
    stage = replace(stage, blobs=open_blob_store(settings.blobs_url))
    redis = connect_redis(stage.redis_url)
    weights = types_pb2.WeightsRef(
        version=0, manifest="weights/v0/manifest.json", manifest_id="b3:" + "0" * 64
    )
    async with serving(settings) as stub:
        restored = await stub.RestoreTrainer(buffer_pb2.RestoreTrainerRequest(run_id=run), timeout=5)
        epoch = restored.epoch
        announcement = buffer_pb2.AnnounceVersionRequest(run_id=run, epoch=epoch, weights=weights)
        await stub.AnnounceVersion(announcement, timeout=5)
        assert await read_weights(redis, RunKeys(run)) == weights
        lease = buffer_pb2.LeaseBatchRequest(run_id=run, epoch=epoch, step=1, wait_s=15)
        waiting = stub.LeaseBatch(lease, timeout=DEADLINE_S)
        await generate(stage, stub, redis)
        await score(stage, stub, redis)
        batch = (await waiting).batch
        record = types_pb2.CommitRecord(
            lineage=restored.lineage, step=1, batch_id=batch.batch_id, sample_ids=samples_of(batch)
        )
        commit = buffer_pb2.CommitStepsRequest(run_id=run, epoch=epoch, records=[record])
        assert (await stub.CommitSteps(commit, timeout=5)).num_trained == 4
        status = await stub.GetStatus(buffer_pb2.GetStatusRequest(run_id=run), timeout=5)
        assert (status.step, status.phase, status.lineage) == (
            1,
            buffer_pb2.RUN_PHASE_RUNNING,
            restored.lineage,
        )
        wanted = buffer_pb2.ListSamplesRequest(run_id=run, state=types_pb2.SAMPLE_STATE_TRAINED)
        trained = await stub.ListSamples(wanted, timeout=5)
        assert [item.sample_id for item in trained.samples] == sorted(samples_of(batch))
    await redis.aclose()


async def test_a_response_goes_on_in_another_pod_when_its_pod_died(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    settings, run = settings_of(stage), stage.run_id
    stage = replace(stage, blobs=open_blob_store(settings.blobs_url))
    redis = connect_redis(stage.redis_url)
    tasks = RedisWorkQueue(redis, RunKeys(run).tasks, lease_s=30)
    async with serving(settings) as stub:
        leased = (await tasks.take("dies", wait_s=5, max_items=1))[0]
        group = types_pb2.GenerationTask.FromString(leased.body).envelope.group_id
        sample = ids.sample_id(group, 1)
        save = buffer_pb2.SaveSegmentRequest(
            run_id=run,
            group_id=group,
            sample_id=sample,
            segment=player_of(stage).segment(sample, 0, tokens=4),
            lease=message_of(leased.lease),
        )
        assert (await stub.SaveSegment(save, timeout=5)).num_saved_tokens == 4
        assert (await stub.SaveSegment(save, timeout=5)).outcome == buffer_pb2.SUBMIT_OUTCOME_DUPLICATE
        await tasks.release(leased.lease)
        lease = message_of((await tasks.take("goes-on", wait_s=5, max_items=1))[0].lease)
        with pytest.raises(FencedError, match="goes-on"):
            await stub.SaveSegment(save, timeout=5)
        request = buffer_pb2.GetPendingSamplesRequest(run_id=run, group_id=group, lease=lease)
        pending = await stub.GetPendingSamples(request, timeout=5)
        assert list(pending.indices) == [0, 1]
        assert [(found.index, list(found.segments)) for found in pending.saved] == [(1, [save.segment])]
        drop = buffer_pb2.DropSegmentsRequest(run_id=run, group_id=group, sample_id=sample, lease=lease)
        reply = await stub.DropSegments(drop, timeout=5)
        assert (reply.outcome, reply.num_saved_tokens) == (buffer_pb2.SUBMIT_OUTCOME_ACCEPTED, 0)
        assert not (await stub.GetPendingSamples(request, timeout=5)).saved
        drop.group_id = "another"
        with pytest.raises(InvalidInputError, match="is not of group another"):
            await stub.DropSegments(drop, timeout=5)
        save.lease.CopyFrom(lease)
        save.segment.start = 3
        with pytest.raises(InvalidInputError, match="0 tokens of the response are saved"):
            await stub.SaveSegment(save, timeout=5)
    await redis.aclose()


async def test_the_trainer_steers_over_grpc(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(length={"windows": [10, 20]})
    run = stage.run_id
    event = run_event("window/0", 0)
    async with serving(settings_of(stage)) as stub:
        restore = buffer_pb2.RestoreTrainerRequest(run_id=run, window_tokens=21)
        with pytest.raises(InvalidInputError, match="the largest window of this run is 20 tokens"):
            await stub.RestoreTrainer(restore, timeout=5)
        restore.window_tokens = 20
        epoch = (await stub.RestoreTrainer(restore, timeout=5)).epoch
        assert epoch == 1
        commit = buffer_pb2.CommitStepsRequest(
            run_id=run, epoch=epoch, window_tokens=10, events=[event, event]
        )
        for _ in range(2):
            await stub.CommitSteps(commit, timeout=5)
        status = await stub.GetStatus(buffer_pb2.GetStatusRequest(run_id=run), timeout=5)
        assert (status.window_tokens, list(status.events), status.is_last_evaluation) == (10, [event], False)
        reply = await stub.ListEvents(buffer_pb2.ListEventsRequest(run_id=run), timeout=5)
        assert (list(reply.events), reply.next) == ([event], "")
        with pytest.raises(InvalidInputError, match="this buffer serves run"):
            await stub.ListEvents(buffer_pb2.ListEventsRequest(run_id="other"), timeout=5)
        commit.events[0].evidence_json = "x" * (64 * 1024 + 1)
        with pytest.raises(InvalidInputError, match="evidence_json has 65537 bytes"):
            await stub.CommitSteps(commit, timeout=5)


async def test_a_second_buffer_of_a_run_is_refused(make_stage: Callable[..., Stage]) -> None:
    settings = settings_of(make_stage())
    async with serving(settings):
        with pytest.raises(BusyError, match="a run has one writer"):
            await run(settings, asyncio.Event())


async def test_errors_cross_the_door_as_what_they_are(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    async with serving(settings_of(stage)) as stub:
        with pytest.raises(InvalidInputError, match="this buffer serves run"):
            await stub.GetStatus(buffer_pb2.GetStatusRequest(run_id="other"), timeout=5)
        with pytest.raises(FencedError, match="epoch 7 is over"):
            await stub.LeaseBatch(
                buffer_pb2.LeaseBatchRequest(run_id=stage.run_id, epoch=7, step=1, wait_s=0), timeout=5
            )
        with pytest.raises(PreconditionError, match="does not know"):
            await stub.RestoreTrainer(
                buffer_pb2.RestoreTrainerRequest(run_id=stage.run_id, lineage="x", step=1), timeout=5
            )
        with pytest.raises(InvalidInputError, match="phase 0 is not known"):
            await stub.SetRunPhase(buffer_pb2.SetRunPhaseRequest(run_id=stage.run_id), timeout=5)


async def test_the_buffer_reconciles_by_itself_when_redis_restarts(
    make_stage: Callable[..., Stage], tmp_path: Path
) -> None:
    with start_embedded(tmp_path / "redis") as server:
        stage = make_stage(redis_url=server.url)
        async with serving(settings_of(stage)) as stub:
            request = buffer_pb2.GetStatusRequest(run_id=stage.run_id)

            async def opened() -> buffer_pb2.GetStatusReply:
                status = await stub.GetStatus(request, timeout=5)
                if status.num_open_groups < 6:
                    raise UnavailableError("not yet")
                return status

            await retry_async(opened, deadline_s=DEADLINE_S)
            server.process.kill()
            await asyncio.to_thread(server.restart)
            status = await retry_async(opened, deadline_s=DEADLINE_S)
            assert {item.num_samples for item in status.counts} == {12}


async def test_nothing_is_half_done_when_the_caller_hangs_up(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    async with serving(settings_of(stage)) as stub:
        restore = buffer_pb2.RestoreTrainerRequest(run_id=stage.run_id)
        call = stub.RestoreTrainer(restore, timeout=5)
        await asyncio.sleep(0)
        call.cancel()
        for epoch in (1, 2):
            reply = await stub.RestoreTrainer(restore, timeout=5)
            assert reply.lineage == "l0001" and reply.epoch >= epoch
            lease = buffer_pb2.LeaseBatchRequest(run_id=stage.run_id, epoch=reply.epoch, step=1, wait_s=0)
            assert (await stub.LeaseBatch(lease, timeout=5)).reason == "waiting for 2 more groups"


async def test_the_process_starts_and_ends_by_signal(make_stage: Callable[..., Stage]) -> None:
    settings = settings_of(make_stage())
    values = {
        f"FORKLIGHT_{name.upper()}": str(value)
        for name, value in settings.model_dump().items()
        if value != ""
    }
    values["FORKLIGHT_BLOBS_URL"] = f"file://{settings.run_folder}/blobs"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "forklight_buffer", env={**os.environ, **values}, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with open_channel(settings.listen) as channel:
            stub = cast("buffer_pb2_grpc.BufferAsyncStub", buffer_pb2_grpc.BufferStub(channel))
            request = buffer_pb2.GetStatusRequest(run_id=settings.run_id)
            status = await retry_async(lambda: stub.GetStatus(request, timeout=5.0), deadline_s=DEADLINE_S)
            assert status.phase == buffer_pb2.RUN_PHASE_RUNNING
        process.terminate()
        _, errors = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, errors.decode()


async def test_a_call_with_too_many_samples_is_refused(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    items = [buffer_pb2.SubmitTrajectoryRequest()] * 257
    async with serving(settings_of(stage)) as stub:
        with pytest.raises(InvalidInputError, match="at most 256"):
            await stub.SubmitTrajectories(buffer_pb2.SubmitTrajectoriesRequest(items=items), timeout=5)
