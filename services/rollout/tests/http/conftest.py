"""A pod's HTTP door over an engine in memory: real uvicorn, a real client, the character tokenizer."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from forklight_core.ports import free_ports
from forklight_model.chat import TurnFormat
from forklight_model.tokenizer import build_character_tokenizer
from forklight_rollout.adapters.memory import MemoryEngine
from forklight_rollout.generation.engine_thread import EngineThread
from forklight_rollout.generation.generator import Generator
from forklight_rollout.http.plan import Backend, RequestBounds
from forklight_rollout.http.server import HttpAddress, serve_http
from forklight_rollout.http.service import GenerationService, ServiceLimits
from forklight_rollout.ports import EngineLimits, StepTokens

MODEL = "test-run"
TOKENIZER = build_character_tokenizer()


class GatedEngine(MemoryEngine):
    """Steps only as often as it is allowed to."""

    def __init__(self, limits: EngineLimits, *, mean_tokens: int, is_gated: bool) -> None:
        super().__init__(limits, mean_tokens=mean_tokens)
        self.is_gated = is_gated
        self.permits = threading.Semaphore(0)

    def allow(self, num_steps: int) -> None:
        self.permits.release(num_steps)

    @property
    def num_held(self) -> int:
        return len(self._sequences)

    def step(self) -> StepTokens:
        if self.is_gated and not self.permits.acquire(timeout=0.005):
            return StepTokens(version=self.version, keys=(), ids=(), logprobs=(), raw_logprobs=(), reasons=())
        return super().step()


class Pod:
    """A running door and what is behind it."""

    def __init__(
        self, service: GenerationService, engine: GatedEngine, url: str, *, watches_text: bool
    ) -> None:
        self.service = service
        self.engine = engine
        self.tokenizer = TOKENIZER
        self.thread = EngineThread(Generator(engine, decode=TOKENIZER.decode if watches_text else None))
        self.why_closed = ""
        self.url = url
        self.client = httpx.AsyncClient(base_url=url, timeout=30, trust_env=False)

    def open(self) -> None:
        self.thread.start(deliver=lambda finished: None)
        self.service.open(
            Backend(
                thread=self.thread,
                tokenizer=TOKENIZER,
                chat=TurnFormat(TOKENIZER),
                why_closed=lambda: self.why_closed,
            )
        )

    async def post(self, path: str, **body: object) -> httpx.Response:
        return await self.client.post(f"/v1/{path}", json=body)

    async def complete(self, prompt: object = "2+2=", **body: object) -> dict[str, Any]:
        reply = await self.post("completions", prompt=prompt, **body)
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    async def chat(self, text: str = "What is 2 + 2?", **body: object) -> dict[str, Any]:
        reply = await self.post("chat/completions", messages=[{"role": "user", "content": text}], **body)
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    async def stream(self, path: str, **body: object) -> list[dict[str, Any]]:
        """Every event of a stream, which ends as it must."""
        async with self.client.stream("POST", f"/v1/{path}", json={**body, "stream": True}) as reply:
            assert reply.headers["content-type"].startswith("text/event-stream")
            lines = [line async for line in reply.aiter_lines() if line.startswith("data: ")]
        chunks = [line.removeprefix("data: ") for line in lines]
        assert chunks.pop() == "[DONE]"
        return [json.loads(chunk) for chunk in chunks]

    async def eventually(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            await asyncio.sleep(0.002)


@asynccontextmanager
async def run_pod(
    *,
    num_sequences: int = 8,
    max_tokens: int = 128,
    mean_tokens: int = 8,
    is_gated: bool = False,
    has_weights: bool = True,
    **options: Any,
) -> AsyncIterator[Pod]:
    limits = EngineLimits(
        num_sequences=num_sequences, max_tokens=max_tokens, vocabulary_size=TOKENIZER.vocab_size
    )
    bounds = RequestBounds(
        model=MODEL,
        max_new_tokens=options.get("max_new_tokens", 0),
        max_samples=options.get("max_samples", 64),
    )
    service = GenerationService(
        bounds,
        ServiceLimits(max_requests=options.get("max_requests", 64), max_samples=bounds.max_samples),
    )
    port = free_ports(1)[0]
    address = HttpAddress(host="127.0.0.1", port=port, token=options.get("token", ""))
    engine = GatedEngine(limits, mean_tokens=mean_tokens, is_gated=is_gated)
    pod = Pod(service, engine, f"http://127.0.0.1:{port}", watches_text=options.get("watches_text", True))
    async with AsyncExitStack() as closing:
        closing.push_async_callback(pod.thread.close)
        await closing.enter_async_context(serve_http(address, service))
        closing.push_async_callback(pod.client.aclose)
        if has_weights:
            pod.open()
        yield pod


@pytest.fixture
def make_pod() -> Callable[..., Any]:
    return run_pod


@pytest.fixture
async def pod() -> AsyncIterator[Pod]:
    async with run_pod() as running:
        yield running
