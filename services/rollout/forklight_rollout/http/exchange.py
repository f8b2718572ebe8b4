"""One request from its place at the door to its last byte: started, answered, and ended whatever happens."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from fastapi.responses import JSONResponse
from starlette.responses import Response
from starlette.types import Receive

from forklight_rollout.http import metrics
from forklight_rollout.http.generation import Generation
from forklight_rollout.http.plan import Plan
from forklight_rollout.http.replies import Replies, make_replies
from forklight_rollout.http.service import GenerationService
from forklight_rollout.http.streaming import EventStream, collect, unless_gone, write_events

CLIENT_GONE = 499
"""Nobody reads this status but the metrics: the client went before its answer."""


@dataclass(slots=True, kw_only=True)
class Started:
    """What there is once the engine has the request."""

    generation: Generation
    replies: Replies
    first_token_at: float | None = None


class Exchange:
    """Holds a place of the service from its making to `close`."""

    def __init__(self, service: GenerationService, *, traceparent: str) -> None:
        self.backend = service.enter()
        self._service = service
        self._traceparent = traceparent
        self._started_at = time.time()
        self._started: Started | None = None
        self._is_closed = False

    async def start(self, plan: Plan) -> None:
        """Hand it to the engine."""
        generation = await self._service.start(plan)
        replies = make_replies(generation, model=self._service.bounds.model, created=int(self._started_at))
        self._started = Started(generation=generation, replies=replies)

    async def reply(self, receive: Receive) -> Response:
        """The whole answer."""
        started = self._require_started()
        pieces = await unless_gone(collect(started.generation, self._note_read), receive)
        self.close(is_gone=pieces is None)
        if pieces is None:
            return Response(status_code=CLIENT_GONE)
        return await asyncio.to_thread(lambda: JSONResponse(started.replies.whole(pieces)))

    def stream(self) -> Response:
        """The answer in events. It closes the exchange when it was written."""
        started = self._require_started()
        events = write_events(started.generation, started.replies, self._note_read)
        return EventStream(events, lambda is_gone: self.close(is_gone=is_gone))

    def close(self, *, is_gone: bool = True) -> None:
        """Stop what still runs and give the place back. Safe to call twice."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._started is not None:
            self._service.end(self._started.generation)
            self._record(self._started, is_gone=is_gone)
        self._service.leave()

    def _note_read(self, generation: Generation) -> None:
        started = self._require_started()
        if started.first_token_at is None and generation.num_response_tokens:
            started.first_token_at = time.time()
        self._service.stop_surplus(generation)

    def _record(self, started: Started, *, is_gone: bool) -> None:
        first = started.first_token_at
        metrics.record_generation(
            started.generation,
            metrics.RequestTimes(started_at=self._started_at, first_token_at=first, ended_at=time.time()),
            traceparent=self._traceparent,
            model=self._service.bounds.model,
            is_gone=is_gone,
        )

    def _require_started(self) -> Started:
        if self._started is None:
            raise AssertionError("the exchange was not started")
        return self._started
