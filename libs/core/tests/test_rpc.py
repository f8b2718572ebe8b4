"""Errors, deadlines and trace context cross a real gRPC connection."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from opentelemetry import trace

from forklight.v1 import rollout_pb2, rollout_pb2_grpc
from forklight_core.errors import DeadlineError, FencedError, ForklightError, UnavailableError, WeightsError
from forklight_core.rpc import Registration, open_channel, open_sync_channel, serve
from forklight_core.telemetry import span


class Pod(rollout_pb2_grpc.RolloutServicer):
    """Answers by the deadline it is asked with."""

    async def Drain(self, request: rollout_pb2.DrainRequest, context: object) -> rollout_pb2.DrainReply:
        match int(request.deadline_s):
            case 1:
                raise WeightsError("shard 3 is torn")
            case 2:
                raise ZeroDivisionError("a bug")
            case 3:
                await asyncio.sleep(5)
            case 4:
                raise FencedError("late")
        return rollout_pb2.DrainReply(num_finished=int(request.deadline_s))

    async def GetRolloutStatus(self, request: object, context: object) -> rollout_pb2.GetRolloutStatusReply:
        current = trace.get_current_span().get_span_context()
        return rollout_pb2.GetRolloutStatusReply(pod=f"{current.trace_id:032x}")


REGISTRATION = Registration(rollout_pb2_grpc.add_RolloutServicer_to_server, Pod(), "forklight.v1.Rollout")


async def test_error_of_the_tree_arrives_as_the_same_class_when_the_server_raises_it() -> None:
    async with serve("127.0.0.1:0", [REGISTRATION]) as server, open_channel(server.address) as channel:
        stub = rollout_pb2_grpc.RolloutStub(channel)
        with pytest.raises(WeightsError, match="shard 3 is torn"):
            await stub.Drain(rollout_pb2.DrainRequest(deadline_s=1), timeout=5)
        with pytest.raises(FencedError):
            await stub.Drain(rollout_pb2.DrainRequest(deadline_s=4), timeout=5)
        with pytest.raises(ForklightError, match="ZeroDivisionError"):
            await stub.Drain(rollout_pb2.DrainRequest(deadline_s=2), timeout=5)
        assert (await stub.Drain(rollout_pb2.DrainRequest(deadline_s=7), timeout=5)).num_finished == 7


async def test_call_ends_with_deadline_error_when_the_server_is_slow() -> None:
    async with serve("127.0.0.1:0", [REGISTRATION]) as server, open_channel(server.address) as channel:
        with pytest.raises(DeadlineError):
            await rollout_pb2_grpc.RolloutStub(channel).Drain(
                rollout_pb2.DrainRequest(deadline_s=3), timeout=0.2
            )


async def test_call_ends_with_unavailable_error_when_nobody_listens() -> None:
    async with open_channel("127.0.0.1:1") as channel:
        with pytest.raises(UnavailableError, match="127.0.0.1:1"):
            await rollout_pb2_grpc.RolloutStub(channel).Drain(rollout_pb2.DrainRequest(), timeout=2)


async def test_sync_channel_maps_errors_the_same_way() -> None:
    async with serve("127.0.0.1:0", [REGISTRATION]) as server:
        with open_sync_channel(server.address) as channel:
            stub = rollout_pb2_grpc.RolloutStub(channel)
            with pytest.raises(WeightsError):
                await asyncio.to_thread(stub.Drain, rollout_pb2.DrainRequest(deadline_s=1), timeout=5)
            with pytest.raises(DeadlineError):
                await asyncio.to_thread(stub.Drain, rollout_pb2.DrainRequest(deadline_s=3), timeout=0.2)
            reply = await asyncio.to_thread(stub.Drain, rollout_pb2.DrainRequest(deadline_s=9), timeout=5)
            assert reply.num_finished == 9


async def test_health_and_reflection_answer_when_a_server_runs() -> None:
    async with serve("127.0.0.1:0", [REGISTRATION]) as server, open_plain(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="forklight.v1.Rollout")
        assert (await stub.Check(request, timeout=5)).status == health_pb2.HealthCheckResponse.SERVING
        await server.set_serving(False)
        assert (await stub.Check(request, timeout=5)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        listed = await reflected_services(channel)
    assert {"forklight.v1.Rollout", "grpc.health.v1.Health"} <= listed


def open_plain(address: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(address)


async def reflected_services(channel: grpc.aio.Channel) -> set[str]:
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([question]), timeout=5)
    async for answer in call:
        return {service.name for service in answer.list_services_response.service}
    raise AssertionError("reflection said nothing")


async def test_trace_context_reaches_the_server_when_a_span_runs() -> None:
    sample = "run-1/g00000001/s000"
    async with serve("127.0.0.1:0", [REGISTRATION]) as server, open_channel(server.address) as channel:
        with span("outer", sample_id=sample) as outer:
            reply = await rollout_pb2_grpc.RolloutStub(channel).GetRolloutStatus(
                rollout_pb2.GetRolloutStatusRequest(), timeout=5
            )
    assert reply.pod == f"{outer.get_span_context().trace_id:032x}"
