"""Demand as arithmetic, and as KEDA asks for it: over gRPC, of a real buffer on a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forklight.v1 import buffer_pb2
from forklight.v1 import externalscaler_pb2 as keda
from forklight_buffer.rehearsal import Stage, mixed_reward, rehearse
from forklight_buffer.scaler import METRIC, Scaler, Work, demand, pods_needed
from forklight_buffer.states import Phase
from forklight_core.queues import RedisWorkQueue, RunKeys, connect_redis
from services.buffer.tests.test_door import serving, settings_of

COUNT = st.integers(min_value=0, max_value=2000)
WORK = st.builds(
    Work,
    waiting=COUNT,
    in_flight=COUNT,
    evaluating=COUNT,
    evaluating_in_flight=COUNT,
    to_come=COUNT,
    ceiling=COUNT,
    opens_training=st.booleans(),
    opens_evaluation=st.booleans(),
)
SCALER = "/externalscaler.ExternalScaler"


@pytest.mark.parametrize(
    ("work", "groups"),
    [
        (Work(waiting=0, in_flight=0, ceiling=8), 0),
        (Work(waiting=24, in_flight=0, ceiling=64), 24),
        (Work(waiting=0, in_flight=24, ceiling=64), 24),  # a bare lag says 0 here
        (Work(waiting=24, in_flight=8, ceiling=16), 16),
        (Work(waiting=4, in_flight=8, ceiling=0), 8),
        (Work(waiting=3, in_flight=0, ceiling=0), 1),
        (Work(waiting=0, in_flight=0, to_come=4, ceiling=16), 4),
        (Work(waiting=4, in_flight=2, evaluating=5, evaluating_in_flight=1, ceiling=4), 10),
        (Work(waiting=4, in_flight=2, ceiling=9, opens_training=False, opens_evaluation=False), 2),
        (Work(waiting=4, in_flight=2, evaluating=5, ceiling=9, opens_training=False), 5),
    ],
)
def test_demand_is_what_waits_and_what_is_in_flight(work: Work, groups: int) -> None:
    assert demand(work) == groups


@given(work=WORK, groups_per_pod=st.floats(min_value=0.5, max_value=64))
def test_pods_in_flight_are_kept_and_waiting_work_is_never_stuck(work: Work, groups_per_pod: float) -> None:
    pods = pods_needed(demand(work), groups_per_pod)
    held = work.in_flight + work.evaluating_in_flight
    assert pods * groups_per_pod >= held
    if work.opens_training and work.opens_evaluation:
        assert (pods > 0) >= (held + work.waiting + work.evaluating > 0)
        most = max(work.ceiling, work.in_flight, 1) + work.evaluating + work.evaluating_in_flight
        assert demand(work) <= most
    elif not work.opens_evaluation and not work.opens_training:
        assert demand(work) == held


async def test_demand_follows_a_group_from_opening_to_its_end(make_stage: Callable[..., Stage]) -> None:
    """2 groups a step, 2 versions of staleness: 6 groups may be unfinished, whatever pods do."""
    async with rehearse(make_stage()) as player:
        scaler = Scaler(player.buffer.context, player.buffer.entries)
        assert await scaler.demand() == 2  # nothing is open: the first batch lacks 2
        await player.open()
        assert await scaler.demand() == 6
        held = await player.take_tasks(most=6)
        assert await scaler.demand() == 6
        for leased in held:
            await player.tasks.release(leased.lease)
        await player.generate(most=4)
        assert await scaler.demand() == 2
        await player.generate()
        await player.score(mixed_reward)
        assert await scaler.demand() == 0  # the trainer has all it may learn from for now


async def test_a_paused_run_needs_pods_for_what_is_in_flight_a_finished_one_none(
    make_stage: Callable[..., Stage],
) -> None:
    async with rehearse(make_stage()) as player:
        buffer = player.buffer
        scaler = Scaler(buffer.context, buffer.entries)
        await player.open()
        await player.take_tasks(most=1)
        await buffer.phases.set_phase(Phase.PAUSED, "to look at it")
        assert await scaler.demand() == 1
        await buffer.phases.set_phase(Phase.RUNNING, "")
        assert await scaler.demand() == 6
        await buffer.phases.set_phase(Phase.FINISHED, "enough")
        assert await scaler.demand() == 0


class Keda:
    """The calls of KEDA's external scaler, by its published names and numbers."""

    def __init__(self, channel: grpc.aio.Channel, **metadata: str) -> None:
        self._channel = channel
        self._ref = keda.ScaledObjectRef(name="rollout", namespace="forklight", scalerMetadata=metadata)

    async def ask(self, method: str, request: object, reply: type) -> object:
        call = self._channel.unary_unary(
            f"{SCALER}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        return await call(request, timeout=5)

    async def is_active(self) -> bool:
        reply = await self.ask("IsActive", self._ref, keda.IsActiveResponse)
        assert isinstance(reply, keda.IsActiveResponse)
        return reply.result

    async def target(self) -> keda.MetricSpec:
        reply = await self.ask("GetMetricSpec", self._ref, keda.GetMetricSpecResponse)
        assert isinstance(reply, keda.GetMetricSpecResponse)
        return reply.metricSpecs[0]

    async def groups(self, metric: str = METRIC) -> float:
        request = keda.GetMetricsRequest(scaledObjectRef=self._ref, metricName=metric)
        reply = await self.ask("GetMetrics", request, keda.GetMetricsResponse)
        assert isinstance(reply, keda.GetMetricsResponse)
        assert reply.metricValues[0].metricValue == reply.metricValues[0].metricValueFloat
        return reply.metricValues[0].metricValueFloat

    def watch(self) -> grpc.aio.UnaryStreamCall[keda.ScaledObjectRef, keda.IsActiveResponse]:
        call = self._channel.unary_stream(
            f"{SCALER}/StreamIsActive",
            request_serializer=keda.ScaledObjectRef.SerializeToString,
            response_deserializer=keda.IsActiveResponse.FromString,
        )
        return call(self._ref, timeout=20)


async def reached(asked: Keda, groups: int) -> bool:
    end = time.monotonic() + 10
    while await asked.groups() != groups:
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.05)
    return True


@asynccontextmanager
async def asking(stage: Stage) -> AsyncIterator[grpc.aio.Channel]:
    settings = settings_of(stage)
    async with grpc.aio.insecure_channel(settings.listen) as channel, serving(settings):
        yield channel


async def test_keda_is_told_what_it_asks_for(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(rollout={"max_batch": 12})
    async with asking(stage) as channel:
        asked = Keda(channel, runId=stage.run_id, groupsPerPod="2.5", scalerAddress="buffer:7001")
        assert await reached(asked, 6)
        assert await asked.is_active()
        spec = await asked.target()
        assert (spec.metricName, spec.targetSize, spec.targetSizeFloat) == (METRIC, 3, 2.5)
        tasks = RedisWorkQueue(
            redis := connect_redis(stage.redis_url), RunKeys(stage.run_id).tasks, lease_s=30
        )
        await tasks.take("rollout-0", wait_s=5, max_items=6)
        assert await asked.groups() == 6
        await redis.aclose()
        assert (await Keda(channel, runIdFromEnv=stage.run_id).target()).targetSizeFloat == 6.0


async def test_a_trigger_that_asks_for_something_else_is_refused_by_name(
    make_stage: Callable[..., Stage],
) -> None:
    stage = make_stage()
    async with asking(stage) as channel:
        for metadata, match in (
            ({"runId": "other"}, "forklight/rollout: runId 'other' is not served here"),
            ({"groupsPerPod": "many"}, "groupsPerPod 'many'"),
            ({"groupsPerPod": "0"}, "groupsPerPod '0'"),
            ({"groupsPerPod": "inf"}, "groupsPerPod 'inf'"),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match=match) as caught:
                await Keda(channel, **metadata).target()
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError, match="no metric 'lag'"):
            await Keda(channel).groups("lag")
        with pytest.raises(grpc.aio.AioRpcError, match="runId 'other'") as caught:
            await Keda(channel, runId="other").watch().read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_activity_is_pushed_when_it_changes_and_ends_with_the_buffer(
    make_stage: Callable[..., Stage],
) -> None:
    stage = make_stage()
    settings = settings_of(stage)
    async with grpc.aio.insecure_channel(settings.listen) as channel:
        async with serving(settings) as stub:
            stream = Keda(channel).watch()
            assert isinstance(first := await stream.read(), keda.IsActiveResponse) and first.result
            finish = buffer_pb2.SetRunPhaseRequest(
                run_id=stage.run_id, phase=buffer_pb2.RUN_PHASE_FINISHED, reason="enough"
            )
            await stub.SetRunPhase(finish, timeout=5)
            assert isinstance(second := await stream.read(), keda.IsActiveResponse) and not second.result
        assert await stream.read() is grpc.aio.EOF


def test_the_contract_has_the_published_names_and_numbers() -> None:
    """Bytes as another implementation of the contract writes them: tag and length by hand."""
    ref = b"\x0a\x07rollout\x12\x02ns\x1a\x0d\x0a\x05runId\x12\x04r-17"
    read = keda.ScaledObjectRef.FromString(ref)
    assert (read.name, read.namespace, dict(read.scalerMetadata)) == ("rollout", "ns", {"runId": "r-17"})
    asked = keda.GetMetricsRequest.FromString(b"\x0a" + bytes([len(ref)]) + ref + b"\x12\x01m")
    assert (asked.scaledObjectRef, asked.metricName) == (read, "m")
    six = b"\x00\x00\x00\x00\x00\x00\x18\x40"
    spec = keda.MetricSpec(metricName="m", targetSize=6, targetSizeFloat=6.0)
    assert spec.SerializeToString() == b"\x0a\x01m\x10\x06\x19" + six
    value = keda.MetricValue(metricName="m", metricValue=6, metricValueFloat=6.0)
    assert value.SerializeToString() == b"\x0a\x01m\x10\x06\x19" + six
    assert keda.IsActiveResponse(result=True).SerializeToString() == b"\x08\x01"
    assert keda.DESCRIPTOR.package == "externalscaler"
    service = keda.DESCRIPTOR.services_by_name["ExternalScaler"]
    assert [method.name for method in service.methods] == [
        "IsActive",
        "StreamIsActive",
        "GetMetricSpec",
        "GetMetrics",
    ]
    assert service.methods_by_name["StreamIsActive"].server_streaming
