"""The one thread that touches the generator: steps while there is work, operations between two steps.

event loop --call--> operations --> [ operation, step, step, operation, step ] --deliver--> event loop
"""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from forklight_core.errors import ForklightError, UnavailableError
from forklight_rollout.generation.generator import Generator
from forklight_rollout.generation.groups import FinishedSample
from forklight_rollout.generation.throughput import Throughput
from forklight_rollout.tools.ports import ToolCall

Deliver = Callable[[list[FinishedSample]], None]
CallOut = Callable[[list[ToolCall]], None]
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
    num_calling: int = 0  # samples that have begun, but are in a call to a tool and not in the engine


class EngineThread:
    """Owns a generator. Its public methods are for the event loop's thread."""

    def __init__(self, generator: Generator) -> None:
        self.limits = generator.engine.limits
        self.numeric_mode = generator.engine.numeric_mode
        self.throughput = Throughput()
        self._generator = generator
        self._operations: queue.SimpleQueue[_Operation] = queue.SimpleQueue()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._ended: asyncio.Future[None] | None = None
        self._is_closing = False
        self._num_steps = 0
        self._step_s = 0.0
        self._reading = self._read()

    @property
    def reading(self) -> EngineReading:
        return self._reading

    def start(self, *, deliver: Deliver, call_out: CallOut | None = None) -> None:
        """Begin; in the event loop `deliver` is called with what has ended, `call_out` with calls of tools.

        Without `call_out` nobody may add work with tools.
        """
        loop = asyncio.get_running_loop()

        def post(finished: list[FinishedSample]) -> None:
            if finished:
                loop.call_soon_threadsafe(deliver, finished)
            calls = self._generator.take_calls()
            if calls and call_out is None:
                raise AssertionError(f"{calls[0].sample_id} calls a tool, and nobody answers calls")
            if calls and call_out is not None:
                loop.call_soon_threadsafe(call_out, calls)

        self._ended = loop.run_in_executor(self._executor, self._run, post)

    async def call(self, operation: Callable[[Generator], Result]) -> Result:
        """Run an operation on the generator between two steps and return what it returns."""
        if self._ended is None or self._ended.done():
            raise UnavailableError(
                "the engine thread does not run: the pod is stopping, or its engine failed"
            )
        answer: Future[Result] = Future()

        def run() -> None:
            # Who asked may have stopped waiting; then nobody takes a result, and none may be given.
            if answer.set_running_or_notify_cancel():
                answer.set_result(operation(self._generator))

        def refuse(error: ForklightError) -> None:
            if answer.running() or answer.set_running_or_notify_cancel():
                answer.set_exception(error)

        self._operations.put(_Operation(run, refuse))
        return await asyncio.wrap_future(answer)

    async def wait_ended(self) -> None:
        """Return when the thread was closed; raise what the engine failed with."""
        if self._ended is not None:
            await asyncio.shield(self._ended)

    async def close(self) -> None:
        """End the thread after the step it is in. Safe to call twice, and when it never started."""
        self._is_closing = True
        self._operations.put(_Operation(lambda: None, lambda error: None))
        await asyncio.to_thread(self._executor.shutdown)

    def _run(self, post: Deliver) -> None:
        try:
            while not self._is_closing:
                self._run_operations()
                if not self._generator.is_idle:
                    self._step(post)
        finally:
            self._is_closing = True
            self._refuse_operations()

    def _run_operations(self) -> None:
        """Run what has been asked for; with nothing to generate, wait for it."""
        while True:
            try:
                operation = self._operations.get(block=self._generator.is_idle and not self._is_closing)
            except queue.Empty:
                return
            operation.run()
            self._reading = self._read()

    def _refuse_operations(self) -> None:
        error = UnavailableError("the engine thread has ended: the pod is stopping, or its engine failed")
        while not self._operations.empty():
            self._operations.get().refuse(error)

    def _step(self, post: Deliver) -> None:
        started = time.perf_counter()
        finished = self._generator.step()
        self._step_s += time.perf_counter() - started
        self._num_steps += 1
        self._reading = self._read()
        self.throughput.note(time.monotonic(), self._reading.num_tokens)
        post(finished)

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
            num_calling=generator.num_calling,
        )


@dataclass(frozen=True, slots=True)
class _Operation:
    """Something asked of the generator, and where to say that it could not be done."""

    call: Callable[[], None]
    refuse: Callable[[ForklightError], None]

    def run(self) -> None:
        """Errors of our tree go to who asked; anything else is a bug and ends the thread."""
        try:
            self.call()
        except ForklightError as error:
            self.refuse(error)
