"""A reader that takes nothing stops neither the engine nor other clients, and has gone after a while."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message, Scope

from forklight_rollout.http import streaming
from forklight_rollout.http.server import HttpAddress, make_app

BODY = {"prompt": "a", "max_tokens": 100, "ignore_eos": True, "stream": True, "return_token_ids": True}


class SlowReader:
    """A client at the server's interface: sends a request, then reads when it is let."""

    def __init__(self) -> None:
        self.may_read = asyncio.Event()
        self.body = b""
        self.num_waiting = 0
        self._request: list[Message] = [
            {"type": "http.request", "body": json.dumps(BODY).encode(), "more_body": False}
        ]

    @property
    def scope(self) -> Scope:
        headers = [(b"host", b"127.0.0.1:80"), (b"content-type", b"application/json")]
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "method": "POST",
            "path": "/v1/completions",
            "raw_path": b"/v1/completions",
            "query_string": b"",
            "headers": headers,
            "scheme": "http",
            "server": ("127.0.0.1", 80),
        }

    async def receive(self) -> Message:
        if not self._request:
            await asyncio.Event().wait()
        return self._request.pop()

    async def send(self, message: Message) -> None:
        self.num_waiting += 1
        await self.may_read.wait()
        self.body += message.get("body", b"")

    @property
    def token_ids(self) -> list[int]:
        lines = [line.removeprefix("data: ") for line in self.body.decode().split("\n\n") if line]
        chunks = [json.loads(line) for line in lines if line != "[DONE]"]
        return [token for chunk in chunks for token in chunk["choices"][0].get("token_ids", [])]


def make_door(pod: Any) -> Any:
    return make_app(HttpAddress(host="127.0.0.1", port=80), pod.service)


async def test_a_slow_reader_stops_nobody_and_misses_nothing(pod: Any) -> None:
    reader, app = SlowReader(), make_door(pod)
    answering = asyncio.create_task(app(reader.scope, reader.receive, reader.send))
    await pod.eventually(lambda: pod.thread.reading.num_tokens == 100)
    await pod.eventually(lambda: pod.thread.reading.num_running == 0)
    await pod.eventually(lambda: reader.num_waiting == 1)
    assert len((await pod.complete(n=8, max_tokens=50))["choices"]) == 8
    assert (reader.body, reader.num_waiting) == (b"", 1)
    reader.may_read.set()
    await answering
    assert len(reader.token_ids) == 100
    assert reader.body.endswith(b"data: [DONE]\n\n")


async def test_a_reader_that_takes_nothing_for_too_long_has_gone(
    pod: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "WRITE_DEADLINE_S", 0.05)
    reader, app = SlowReader(), make_door(pod)
    await app(reader.scope, reader.receive, reader.send)
    assert (reader.body, pod.service.num_requests) == (b"", 0)
    await pod.eventually(lambda: pod.engine.num_held == 0)


async def test_a_stream_without_news_says_that_it_lives(
    make_pod: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "KEEP_ALIVE_S", 0.02)
    async with make_pod(is_gated=True) as pod:
        reader, app = SlowReader(), make_door(pod)
        reader.may_read.set()
        answering = asyncio.create_task(app(reader.scope, reader.receive, reader.send))
        await pod.eventually(lambda: reader.body.count(streaming.KEEP_ALIVE) >= 2)
        pod.engine.allow(100)
        await answering
    reader.body = reader.body.replace(streaming.KEEP_ALIVE, b"")
    assert len(reader.token_ids) == 100
