"""The one thread that touches the generator: it steps while there is work and runs operations between two steps.

event loop --call(operation)--> operations --+--> [ operation ... step ... operation ... step ] --deliver--> event loop
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from forklight_core.errors import UnavailableError
from forklight_rollout.generator import Generator
from forklight_rollout.groups import FinishedSample
from forklight_rollout.throughput import Throughput

log = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReading:
    """A look at the generator, as of its last step."""

    version: int
    num_running: int
    num_waiting: int
    num_tokens: int
    num_steps: int
    step_s: float  # seconds in steps since the start, the model's share included
    model_s: float  # seconds in the model and the sampler


class EngineThread:
    """Owns a generator. All its methods are for the event loop's thread."""

    def __init__(self, generator: Generator) -> None:
        self.limits = generator.engine.limits
        self.throughput = Throughput()
        self._generator = generator
        self._deliver: Callable[[list[FinishedSample]], None] = lambda finished: None
        self._operations: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._closing = False
        self._num_steps = 0
        self._step_s = 0.0
        self._reading = self._read()

    @property
    def reading(self) -> EngineReading:
        return self._reading

    def start(self, *, deliver: Callable[[list[FinishedSample]], None]) -> None:
        """Begin; `deliver` is called in the event loop with what has ended."""
        self._deliver = deliver
        self._thread.start()

    async def call(self, operation: Callable[[Generator], Result]) -> Result:
        """Run an operation on the generator between two steps and return what it returns."""
        if self._ended.done():
            raise UnavailableError("the engine thread has ended: the pod is stopping or its engine failed")
        answer: Future[Result] = Future()

        def run() -> None:
            try:
                answer.set_result(operation(self._generator))
            except BaseException as error:
                answer.set_exception(error)

        self._operations.put(run)
        return await asyncio.wrap_future(answer)

    async def wait_ended(self) -> None:
        """Return when the thread was closed; raise what the engine failed with."""
        await asyncio.shield(self._ended)

    async def close(self) -> None:
        """End the thread after the step it is in. Safe to call twice, and when it never started."""
        self._closing = True
        self._operations.put(lambda: None)
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        failure: BaseException | None = None
        try:
            while not self._closing:
                self._run_operations()
                if not self._generator.is_idle:
                    self._step()
        except BaseException as error:
            failure = error
        self._loop.call_soon_threadsafe(self._end, failure)

    def _end(self, failure: BaseException | None) -> None:
        if failure is not None:
            log.error("engine failed", exc_info=failure)
            self._ended.set_exception(failure)
        else:
            self._ended.set_result(None)

    def _run_operations(self) -> None:
        """Run what has been asked for; with nothing to generate, wait for it."""
        block = self._generator.is_idle
        while True:
            try:
                operation = self._operations.get(block=block)
            except queue.Empty:
                return
            operation()
            self._reading = self._read()
            block = self._generator.is_idle and not self._closing

    def _step(self) -> None:
        started = time.perf_counter()
        finished = self._generator.step()
        self._step_s += time.perf_counter() - started
        self._num_steps += 1
        self._reading = self._read()
        self.throughput.note(time.monotonic(), self._reading.num_tokens)
        if finished:
            self._loop.call_soon_threadsafe(self._deliver, finished)

    def _read(self) -> EngineReading:
        generator = self._generator
        return EngineReading(
            version=generator.engine.version,
            num_running=generator.num_running,
            num_waiting=generator.num_waiting,
            num_tokens=generator.num_tokens,
            num_steps=self._num_steps,
            step_s=self._step_s,
            model_s=generator.engine.model_s,
        )
