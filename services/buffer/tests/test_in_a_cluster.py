"""What a cluster adds: certificates on the whole path, a wrong password, a folder nobody may write to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grpc.aio
import pytest
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc

from forklight.v1 import buffer_pb2, types_pb2
from forklight_buffer.app import run
from forklight_buffer.rehearsal import Stage, samples_of
from forklight_core.blobs import open_blob_store
from forklight_core.errors import ConfigError, UnavailableError
from forklight_core.queues import connect_redis
from forklight_core.redis_server import start_embedded
from forklight_core.retry import retry_async
from forklight_core.rpc import READY, open_channel
from forklight_core.rpc.identity import as_holder_of
from libs.core.tests.certificates import make_authority
from services.buffer.tests.test_door import generate, score, serving, settings_of

DEADLINE_S = 20.0


async def test_a_batch_comes_about_between_holders_of_certificates_only(
    make_stage: Callable[..., Stage], tmp_path: Path
) -> None:
    """Rollout, reward and trainer call with certificates; who has none gets nothing, and nothing is lost."""
    stage = make_stage()
    settings, run_id = settings_of(stage), stage.run_id
    stage = replace(stage, blobs=open_blob_store(settings.blobs_url))
    client = connect_redis(stage.redis_url)
    with as_holder_of(make_authority().sign(tmp_path / "tls")):
        async with serving(settings) as stub:
            restored = await stub.RestoreTrainer(buffer_pb2.RestoreTrainerRequest(run_id=run_id), timeout=5)
            async with grpc.aio.insecure_channel(settings.listen) as plain:
                health = health_pb2_grpc.HealthStub(plain)
                with pytest.raises(grpc.aio.AioRpcError):
                    await health.Check(health_pb2.HealthCheckRequest(), timeout=5)
            await generate(stage, stub, client)
            await score(stage, stub, client)
            lease = buffer_pb2.LeaseBatchRequest(run_id=run_id, epoch=restored.epoch, step=1, wait_s=15)
            batch = (await stub.LeaseBatch(lease, timeout=DEADLINE_S)).batch
            record = types_pb2.CommitRecord(
                lineage=restored.lineage, step=1, batch_id=batch.batch_id, sample_ids=samples_of(batch)
            )
            commit = buffer_pb2.CommitStepsRequest(run_id=run_id, epoch=restored.epoch, records=[record])
            assert (await stub.CommitSteps(commit, timeout=5)).num_trained == 4
    await client.aclose()


async def test_a_wrong_password_is_named_and_waited_out(
    make_stage: Callable[..., Stage], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Alive and not ready, with a word on what to mend; ready when somebody has."""
    with start_embedded(tmp_path / "redis") as server:
        admin = redis.Redis.from_url(server.url)
        admin.config_set("requirepass", "right")
        wrong = server.url.replace("redis://", "redis://:wrong@")
        settings = settings_of(make_stage(redis_url=wrong))
        stop = asyncio.Event()
        with caplog.at_level(logging.WARNING):
            service = asyncio.create_task(run(settings, stop))
            async with open_channel(settings.listen) as channel:
                assert await retry_async(lambda: health_of(channel, ""), deadline_s=DEADLINE_S)
                await retry_async(lambda: was_told(caplog), deadline_s=DEADLINE_S)
                assert not await health_of(channel, READY)
                admin.config_set("requirepass", "wrong")
                await retry_async(lambda: is_ready(channel), deadline_s=DEADLINE_S)
                stop.set()
                await service
        redis.Redis.from_url(wrong).config_set("requirepass", "")
        admin.close()


async def was_told(caplog: pytest.LogCaptureFixture) -> None:
    reasons = [str(getattr(record, "reason", "")) for record in caplog.records]
    if not any("Redis refuses this" in each and "FORKLIGHT_REDIS_URL" in each for each in reasons):
        raise UnavailableError("not yet")


async def health_of(channel: grpc.aio.Channel, service: str) -> bool:
    request = health_pb2.HealthCheckRequest(service=service)
    reply = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


async def is_ready(channel: grpc.aio.Channel) -> None:
    if not await health_of(channel, READY):
        raise UnavailableError("not yet")


async def test_a_blob_folder_that_cannot_be_made_is_wrong_input(make_stage: Callable[..., Stage]) -> None:
    settings = settings_of(make_stage()).model_copy(update={"blobs_url": "file:///proc/forklight"})
    with pytest.raises(ConfigError, match="blob folder /proc/forklight cannot be made"):
        await run(settings, asyncio.Event())
