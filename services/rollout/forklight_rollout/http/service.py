"""Requests of clients beside the queue's work: how many at once, how each ends, what a drain does to them.

opening (no weights: 503) --open--> serving --drain: 503 for new ones--> idle --close--> closed
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from forklight_core.errors import UnavailableError
from forklight_rollout.generation.engine_thread import EngineThread
from forklight_rollout.generation.generator import Generator
from forklight_rollout.http import metrics
from forklight_rollout.http.generation import Bell, Generation
from forklight_rollout.http.plan import Backend, Plan, RequestBounds
from forklight_rollout.http.refusals import RETRY_SOON_S, not_ready

log = logging.getLogger(__name__)
Result = TypeVar("Result")

CANCEL_DEADLINE_S = 10.0
"""A step of the engine, the prefill of a long prompt included, is over by then; or the engine is lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLimits:
    """How much is taken on at once; one more is a 503."""

    max_requests: int
    max_samples: int


class GenerationService:
    """One a pod. Everything in the event loop's thread."""

    def __init__(self, bounds: RequestBounds, limits: ServiceLimits) -> None:
        self.bounds = bounds
        self._limits = limits
        self._bell = Bell()
        self._backend: Backend | None = None
        self._is_draining = False
        self._num_requests = 0
        self._num_samples = 0
        self._running: set[Generation] = set()
        self._cancellations: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def num_requests(self) -> int:
        """Requests that are read, generated or written."""
        return self._num_requests

    def open(self, backend: Backend) -> None:
        """The first weights are in use."""
        self._backend = backend

    def require_backend(self) -> Backend:
        """What to generate with; a 503 without weights and while the pod drains."""
        if self._is_draining:
            raise not_ready("this pod is draining: ask another one", "draining")
        if self._backend is None:
            raise not_ready("this pod has no weights yet: the trainer publishes the first", "no_weights")
        if reason := self._backend.why_closed():
            raise not_ready(f"this pod takes no work now: {reason}", "out_of_service")
        return self._backend

    def enter(self) -> Backend:
        """Take a place, from before a request's body is read until its answer is written: then `leave`."""
        backend = self.require_backend()
        if self._num_requests >= self._limits.max_requests:
            raise not_ready(
                f"{self._num_requests} requests are in flight, the most this pod takes "
                "(FORKLIGHT_HTTP_MAX_REQUESTS)",
                "busy",
                retry_after_s=RETRY_SOON_S,
            )
        self._count_requests(1)
        return backend

    def leave(self) -> None:
        """Give a place back."""
        self._count_requests(-1)

    async def start(self, plan: Plan) -> Generation:
        """Hand a request to the engine. Whoever starts it calls `end`."""
        backend = self.require_backend()
        if self._num_samples + plan.num_choices > self._limits.max_samples:
            raise not_ready(
                f"{self._num_samples} samples are in flight; {plan.num_choices} more are beyond "
                f"{self._limits.max_samples} (FORKLIGHT_HTTP_MAX_SAMPLES)",
                "busy",
                retry_after_s=RETRY_SOON_S,
            )
        generation = Generation(plan, self._bell, backend.tokenizer.decode)
        work = generation.make_work()
        self._running.add(generation)
        self._num_samples += plan.num_choices

        def add_all(generator: Generator) -> None:
            for group in work:
                generator.add(group)

        try:
            await _call(backend.thread, add_all)
        except UnavailableError as error:
            self.end(generation)
            raise not_ready(str(error), "draining") from error
        except asyncio.CancelledError:
            self.end(generation)
            raise
        return generation

    def end(self, generation: Generation) -> None:
        """The request is over; what still runs of it is stopped at once."""
        if generation not in self._running:
            return
        self._running.discard(generation)
        self._num_samples -= generation.plan.num_choices
        if not generation.is_over:
            self._cancel_soon(generation.sample_ids)

    def stop_surplus(self, generation: Generation) -> None:
        """Stop samples whose text is complete while the engine goes on."""
        names = {generation.sample_id(choice.index) for choice in generation.choices if choice.is_surplus}
        if names:
            self._cancel_soon(names)

    @asynccontextmanager
    async def draining_when(self, stop: asyncio.Event, deadline_s: float) -> AsyncIterator[None]:
        """Drain once the pod is told to stop, beside what the block does; both end before this does."""

        async def drain_when_told() -> None:
            await stop.wait()
            await self.drain(deadline_s)

        async with asyncio.TaskGroup() as group:
            group.create_task(drain_when_told())
            yield

    async def drain(self, deadline_s: float) -> None:
        """Refuse what is new, let what runs finish within the deadline, then end it with what it has."""
        self._is_draining = True
        log.info("draining HTTP", extra={"deadline_s": deadline_s, "num_requests": self._num_requests})
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await self._idle.wait()
        await self.abort()

    async def abort(self) -> None:
        """End every request with what it has. Also when the engine is gone."""
        self._is_draining = True
        ending = list(self._running)
        if ending:
            await self._cancel({name for generation in ending for name in generation.sample_ids})
        for generation in ending:
            generation.abort()
        if self._cancellations:
            await asyncio.gather(*self._cancellations)

    async def wait_written(self, deadline_s: float) -> None:
        """Return when every answer is written, or after so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                await self._idle.wait()

    def _cancel_soon(self, names: set[str]) -> None:
        task = asyncio.create_task(self._cancel(names))
        self._cancellations.add(task)
        task.add_done_callback(self._cancellations.discard)

    async def _cancel(self, names: set[str]) -> None:
        """Stop samples; one that had begun hears of its end before this returns."""
        if self._backend is None:
            return
        with suppress(UnavailableError, TimeoutError):
            async with asyncio.timeout(CANCEL_DEADLINE_S):
                await _call(self._backend.thread, lambda generator: generator.cancel(names))

    def _count_requests(self, number: int) -> None:
        self._num_requests += number
        metrics.record_in_flight(self._num_requests)
        if self._num_requests:
            self._idle.clear()
        else:
            self._idle.set()


async def _call(thread: EngineThread, operation: Callable[[Generator], Result]) -> Result:
    """Whoever waits may be cancelled; the operation is not: the engine's thread answers it in any case."""
    return await asyncio.shield(asyncio.create_task(thread.call(operation)))
