"""A whole pod with its HTTP door: open before the weights, beside the queue, drained with the rest."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from forklight.v1 import rollout_pb2, rollout_pb2_grpc, types_pb2
from forklight_core.ports import free_ports
from forklight_core.queues import RunKeys, connect_redis
from forklight_core.redis_server import EmbeddedRedis, start_embedded
from forklight_core.rpc import open_channel
from forklight_model.tokenizer import build_character_tokenizer
from forklight_rollout.adapters.memory import MemoryEngine
from forklight_rollout.app import run
from forklight_rollout.ports import EngineLimits, StepTokens
from forklight_rollout.settings import RolloutSettings

RUN_ID = "test-run"
LIMITS = EngineLimits(
    num_sequences=4, max_tokens=100_000, vocabulary_size=build_character_tokenizer().vocab_size
)
TRACE = "0af7651916cd43dd8448eb211c80319c"


class SlowEngine(MemoryEngine):
    """A thousand steps a second at most: what never ends does not fill the machine."""

    def step(self) -> StepTokens:
        time.sleep(0.001)
        return super().step()


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    with start_embedded(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
async def client(redis_server: EmbeddedRedis, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a pod that has no weights yet; `client.stop` tells the pod to end."""
    (tmp_path / "run.toml").write_text("[rollout]\ndrain_s = 0.2\n")
    http_port, port, buffer_port = free_ports(3)
    settings = RolloutSettings(
        run_file=tmp_path / "run.toml",
        run_folder=tmp_path,
        run_id=RUN_ID,
        listen=f"127.0.0.1:{port}",
        redis_url=redis_server.url,
        blobs_url=f"file://{tmp_path}/blobs",
        buffer_address=f"127.0.0.1:{buffer_port}",
        weights_poll_s=0.02,
        http_listen=f"127.0.0.1:{http_port}",
    )
    stop = asyncio.Event()
    pod = asyncio.create_task(run(settings, stop, make_engine=lambda _: SlowEngine(LIMITS)))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{http_port}", trust_env=False) as opened:
        opened.stop, opened.pod, opened.door = stop, pod, settings.listen  # type: ignore[attr-defined]
        yield opened
    stop.set()
    await pod


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    end = time.monotonic() + 30
    while not await condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


async def health(client: httpx.AsyncClient) -> int:
    try:
        return (await client.get("/health")).status_code
    except httpx.ConnectError:
        return 0


async def announce(server: EmbeddedRedis, reference: types_pb2.WeightsRef) -> None:
    redis = connect_redis(server.url)
    await redis.set(RunKeys(RUN_ID).weights, reference.SerializeToString())
    await redis.aclose()


async def test_a_pod_answers_once_it_has_weights_and_ends_what_runs_when_told_to_stop(
    client: Any,
    redis_server: EmbeddedRedis,
    publish: Callable[[int], types_pb2.WeightsRef],
    spans: InMemorySpanExporter,
) -> None:
    await eventually(lambda: is_status(client, 503))
    await announce(redis_server, publish(0))
    await eventually(lambda: is_status(client, 200))
    messages = [{"role": "user", "content": "2 + 2?"}]
    reply = await client.post(
        "/v1/chat/completions",
        json={"messages": messages, "max_tokens": 5, "temperature": 0.5},
        headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"},
    )
    assert reply.status_code == 200
    (span,) = [each for each in spans.get_finished_spans() if each.name == f"chat {RUN_ID}"]
    assert f"{span.context.trace_id:032x}" == TRACE
    assert span.attributes["gen_ai.usage.output_tokens"] == reply.json()["usage"]["completion_tokens"]
    assert span.attributes["gen_ai.request.temperature"] == 0.5

    endless = {"prompt": "a", "ignore_eos": True, "return_token_ids": True}
    asked = asyncio.create_task(client.post("/v1/completions", json=endless, timeout=30))
    await eventually(lambda: has_begun(client))
    client.stop.set()
    (choice,) = (await asked).json()["choices"]
    assert choice["finish_reason"] == "abort" and len(choice["token_ids"]) > 10
    await asyncio.wait_for(asyncio.shield(client.pod), 20)


async def has_begun(client: Any) -> bool:
    """Whether a sample of the pod has some tokens."""
    async with open_channel(client.door) as channel:
        stub = cast("rollout_pb2_grpc.RolloutAsyncStub", rollout_pb2_grpc.RolloutStub(channel))
        status = await stub.GetRolloutStatus(rollout_pb2.GetRolloutStatusRequest(), timeout=5)
    return status.num_running == 1 and status.num_tokens > 50


async def is_status(client: httpx.AsyncClient, status: int) -> bool:
    return await health(client) == status
