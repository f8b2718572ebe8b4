"""Errors, deadlines and trace context cross a real gRPC connection."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from opentelemetry import trace

from forklight.v1 import rollout_pb2, rollout_pb2_grpc
from forklight_core.errors import (
    DeadlineError,
    FencedError,
    ForklightError,
    UnavailableError,
    VersionSkewError,
    WeightsError,
)
from forklight_core.retry import TRANSIENT, retry_async
from forklight_core.rpc import Registration, open_channel, open_sync_channel, serve
from forklight_core.rpc.version import CONTRACT
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


class Named(rollout_pb2_grpc.RolloutServicer):
    """Says who it is."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def GetRolloutStatus(self, request: object, context: object) -> rollout_pb2.GetRolloutStatusReply:
        return rollout_pb2.GetRolloutStatusReply(pod=self._name)


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


async def test_health_tells_alive_from_ready() -> None:
    """Alive from the first answer to the last; ready when told so, and never again once it leaves."""
    opening = serve("127.0.0.1:0", [REGISTRATION], serving=False, stop=(stop := asyncio.Event()))
    async with opening as server, open_plain(server.address) as channel:
        assert await health_of(channel) == [True, False, False]
        await server.set_serving(True)
        assert await health_of(channel) == [True, True, True]
        assert {"forklight.v1.Rollout", "grpc.health.v1.Health"} <= await reflected_services(channel)
        stop.set()
        await retry_async(lambda: has_left(channel), deadline_s=5)
        await server.set_serving(True)
        assert await health_of(channel) == [True, False, False]


async def has_left(channel: grpc.aio.Channel) -> None:
    if await health_of(channel) != [True, False, False]:
        raise UnavailableError("not yet")


async def health_of(channel: grpc.aio.Channel) -> list[bool]:
    found = []
    for service in ("", "ready", "forklight.v1.Rollout"):
        request = health_pb2.HealthCheckRequest(service=service)
        reply = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
        found.append(reply.status == health_pb2.HealthCheckResponse.SERVING)
    return found


async def test_services_of_different_contracts_refuse_each_other_by_both_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Our callers wait as for a peer that is away; strangers who tell no version are answered."""
    async with serve("127.0.0.1:0", [REGISTRATION]) as server:
        async with open_plain(server.address) as plain:
            stub = rollout_pb2_grpc.RolloutStub(plain)
            request = rollout_pb2.DrainRequest(deadline_s=7)
            assert (await stub.Drain(request, timeout=5)).num_finished == 7
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Drain(request, timeout=5, metadata=(("forklight-version", "7/9.9.9"),))
            assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "contract 7 (forklight 9.9.9)" in str(refused.value.details())
            assert f"contract {CONTRACT} (forklight" in str(refused.value.details())
        monkeypatch.setattr("forklight_core.rpc.client.own_version", lambda: "7/9.9.9")
        async with open_channel(server.address) as channel:
            for ask in (
                lambda: rollout_pb2_grpc.RolloutStub(channel).Drain(request, timeout=5),
                lambda: health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5),
            ):
                with pytest.raises(VersionSkewError, match="run one version of Forklight everywhere"):
                    await ask()
    assert issubclass(VersionSkewError, TRANSIENT)


async def test_calls_are_spread_over_all_addresses_of_a_name() -> None:
    """As a headless Service has them; when one goes, the other takes its calls."""
    both = [Registration(rollout_pb2_grpc.add_RolloutServicer_to_server, Named(name), "r") for name in "ab"]
    async with serve("127.0.0.1:0", both[:1]) as first:
        async with serve("127.0.0.1:0", both[1:]) as second:
            channel = open_channel(f"ipv4:{first.address},{second.address}")
            assert await who_answers(channel, 20) == {"a", "b"}
        assert "a" in await who_answers(channel, 5)
        assert await who_answers(channel, 5) == {"a"}
        await channel.close()


async def who_answers(channel: grpc.aio.Channel, num_calls: int) -> set[str]:
    stub = rollout_pb2_grpc.RolloutStub(channel)
    request = rollout_pb2.GetRolloutStatusRequest()
    return {
        (await retry_async(lambda: stub.GetRolloutStatus(request, timeout=5), deadline_s=5)).pod
        for _ in range(num_calls)
    }


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
