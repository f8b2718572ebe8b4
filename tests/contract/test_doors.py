"""Every server says what it serves and whether it can; every call of ours has a deadline."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.flow.one_process import run_all, write_run

ROOT = Path(__file__).parents[2]
SERVICES = {
    "buffer": "Buffer",
    "reward": "Reward",
    "verifier": "Verifier",
    "sandbox": "Sandbox",
    "judge": "Judge",
    "trainer": "Trainer",
    "rollout": "Rollout",
}
DEADLINE_S = 60.0


async def test_every_door_is_healthy_and_describes_itself_when_the_system_runs(tmp_path: Path) -> None:
    rows = [{"id": "p", "prompt": "1+1=", "kind": "math", "gold": "2"}]
    async with run_all(tmp_path, write_run(tmp_path, steps=500, rows=rows)) as system:
        for name, service in SERVICES.items():
            full_name = f"forklight.v1.{service}"
            async with grpc.aio.insecure_channel(system.addresses[name]) as channel:
                await wait_serving(channel, full_name)
                assert full_name in await described(channel), name


async def wait_serving(channel: grpc.aio.Channel, service: str) -> None:
    question = health_pb2.HealthCheckRequest(service=service)
    stub = health_pb2_grpc.HealthStub(channel)
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                if (await stub.Check(question, timeout=5)).status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE, error
            await asyncio.sleep(0.1)


async def described(channel: grpc.aio.Channel) -> set[str]:
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([question]), timeout=5)
    async for answer in call:
        return {service.name for service in answer.list_services_response.service}
    raise AssertionError("reflection said nothing")


def methods_of_the_proto() -> set[str]:
    texts = [place.read_text() for place in (ROOT / "proto").rglob("*.proto")]
    lines = [line for text in texts for line in text.splitlines()]
    calls = [line.strip() for line in lines if line.strip().startswith("rpc ")]
    return {call.removeprefix("rpc ").split("(")[0] for call in calls}


def calls_without_deadline(place: Path, methods: set[str]) -> list[str]:
    """Calls of a stub's method, `stub.Method(request)`, that pass no timeout."""
    calls = [node for node in ast.walk(ast.parse(place.read_text())) if isinstance(node, ast.Call)]
    return [
        f"{place.relative_to(ROOT)}:{call.lineno}"
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in methods
        and isinstance(call.func.value, ast.Name | ast.Attribute | ast.Call)
        and not is_message(call)
        and "timeout" not in {keyword.arg for keyword in call.keywords}
    ]


def is_message(call: ast.Call) -> bool:
    """`types_pb2.Name(...)` makes a message."""
    value = call.func.value if isinstance(call.func, ast.Attribute) else None
    return isinstance(value, ast.Name) and value.id.endswith("_pb2")


def test_every_call_has_a_deadline_where_it_is_made() -> None:
    methods = methods_of_the_proto()
    assert "SubmitTrajectory" in methods
    packages = [*ROOT.glob("services/*/forklight_*"), ROOT / "libs/cli/forklight_cli"]
    sources = [place for package in packages for place in package.rglob("*.py")]
    assert [found for place in sources for found in calls_without_deadline(place, methods)] == []
