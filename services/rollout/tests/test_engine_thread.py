"""The thread that owns the generator: operations between steps, and who asked for them."""

from __future__ import annotations

import asyncio
import threading

import pytest

from forklight_core.errors import ForklightError, InvalidInputError, UnavailableError
from forklight_rollout.adapters.memory import MemoryEngine
from forklight_rollout.generation.engine_thread import EngineThread
from forklight_rollout.generation.generator import Generator
from forklight_rollout.ports import EngineLimits

LIMITS = EngineLimits(num_sequences=4, max_tokens=100, vocabulary_size=50)


def make_thread() -> EngineThread:
    thread = EngineThread(Generator(MemoryEngine(LIMITS)))
    thread.start(deliver=lambda finished: None)
    return thread


def fail(error: ForklightError) -> None:
    raise error


async def test_who_asks_gets_the_answer_or_the_error() -> None:
    thread = make_thread()
    assert await thread.call(lambda generator: generator.num_running) == 0
    with pytest.raises(InvalidInputError, match="no"):
        await thread.call(lambda generator: fail(InvalidInputError("no")))
    await thread.close()
    with pytest.raises(UnavailableError, match="does not run"):
        await thread.call(lambda generator: generator.num_running)


@pytest.mark.parametrize("error", [None, InvalidInputError("nobody hears this")])
async def test_who_stops_waiting_does_not_end_the_thread(error: ForklightError | None) -> None:
    thread, may_go_on, ran = make_thread(), threading.Event(), threading.Event()
    holds = threading.Event()

    def hold(generator: Generator) -> None:
        holds.set()
        may_go_on.wait(30)

    def answer(generator: Generator) -> None:
        ran.set()
        if error is not None:
            raise error

    holding = asyncio.create_task(thread.call(hold))
    assert await asyncio.to_thread(holds.wait, 30)
    waiting = asyncio.create_task(thread.call(answer))
    await asyncio.sleep(0)
    holding.cancel()
    waiting.cancel()
    await asyncio.gather(holding, waiting, return_exceptions=True)
    await asyncio.sleep(0)  # the cancellation reaches the thread's future a turn later
    may_go_on.set()
    assert await thread.call(lambda generator: generator.is_idle)
    assert not ran.is_set()  # nobody wanted it any more
    await thread.close()
    await thread.wait_ended()
