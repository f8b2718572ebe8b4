"""Answers that can be left: whole or as server-sent events. A client that goes stops its samples at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from forklight_rollout.http.generation import Generation, Piece, join_pieces
from forklight_rollout.http.refusals import Json
from forklight_rollout.http.replies import Replies

KEEP_ALIVE_S = 15.0
"""A stream without news says so, or proxies would cut it."""
WRITE_DEADLINE_S = 60.0
"""A reader that takes nothing for so long has gone."""
KEEP_ALIVE = b": waiting\n\n"
DONE = b"data: [DONE]\n\n"

Result = TypeVar("Result")
OnRead = Callable[[Generation], None]
"""Told after something was read of a request."""


async def unless_gone(work: Coroutine[object, object, Result], receive: Receive) -> Result | None:
    """What the work returns; None when the client went before, and the work was cancelled."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_wait_gone(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task})


async def _wait_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def collect(generation: Generation, on_read: OnRead) -> list[Piece]:
    """Every choice, whole."""
    found: list[list[Piece]] = [[] for _ in generation.choices]
    while not generation.is_over:
        for piece in await generation.read():
            found[piece.index].append(piece)
        on_read(generation)
    return [join_pieces(index, pieces) for index, pieces in enumerate(found)]


async def write_events(generation: Generation, replies: Replies, on_read: OnRead) -> AsyncIterator[bytes]:
    """The chunks of a stream; one holds what came of all choices since the one before."""
    begun = [replies.begin_choice(choice.index) for choice in generation.choices]
    for number, choice in enumerate(begin for begin in begun if begin is not None):
        yield _event(replies.chunk([choice], is_first=number == 0))
    while not generation.is_over:
        pieces: list[Piece] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(KEEP_ALIVE_S):
                pieces = await generation.read()
        on_read(generation)
        told = [replies.chunk_choice(piece) for piece in pieces]
        for choice in (each for each in told if each is not None):
            yield _event(replies.chunk([choice]))
        if not pieces:
            yield KEEP_ALIVE
    if generation.plan.gives_usage_at_end:
        yield _event(replies.usage_chunk())
    yield DONE


def _event(body: Json) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


class EventStream(Response):
    """Server-sent events. `close` is called once, with whether the client had gone, however it ends."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], close: Callable[[bool], None]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_gone = True
        try:
            is_gone = not await unless_gone(self._write(send), receive)
        finally:
            self._close(is_gone)

    async def _write(self, send: Send) -> bool:
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        try:
            await _send(send, start)
            async for event in self._events:
                await _send(send, {"type": "http.response.body", "body": event, "more_body": True})
            await _send(send, {"type": "http.response.body", "body": b"", "more_body": False})
        except (TimeoutError, OSError):
            return False
        return True


async def _send(send: Send, message: dict[str, object]) -> None:
    async with asyncio.timeout(WRITE_DEADLINE_S):
        await send(message)
