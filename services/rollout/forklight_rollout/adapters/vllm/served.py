"""vLLM's AsyncLLM in a thread with an event loop of its own, called from other threads.

engine thread --coroutines--> loop [ AsyncLLM --sockets--> vLLM's processes ] --deltas--> Outbox
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial
from typing import Any, TypeVar

from forklight_core.errors import DeadlineError, ForklightError, UnavailableError
from forklight_rollout.adapters.vllm.outbox import Outbox
from forklight_rollout.adapters.vllm.requests import (
    Output,
    read_deltas,
    read_scores,
    sampling_values,
    scoring_values,
    token_ids,
)
from forklight_rollout.ports import PromptStart, SequenceStart

Result = TypeVar("Result")


class ServedModel:
    """One AsyncLLM. `close` ends its processes and its thread."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._llm: Any = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._num_scored = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm-loop", daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, Result], deadline_s: float) -> Result:
        """Run in the loop and wait for the result; whatever vLLM raises comes out as an error of our tree."""
        name = getattr(coroutine, "__qualname__", "a call")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            error = future.exception(deadline_s)
        except FutureTimeoutError as late:
            future.cancel()
            raise DeadlineError(f"vLLM did not finish {name} within {deadline_s:g} s") from late
        if error is None:
            return future.result()
        if isinstance(error, ForklightError):
            raise error
        raise UnavailableError(
            f"vLLM failed in {name}: {type(error).__name__}: {error}; its own log above says more"
        ) from error

    def post(self, prompt: PromptStart) -> None:
        """Begin sequences; their tokens go to the outbox."""
        self._loop.call_soon_threadsafe(self._begin, prompt)

    def cancel(self, keys: Sequence[int]) -> None:
        """Abort sequences; unknown ones are ignored."""
        self._loop.call_soon_threadsafe(self._cancel, list(keys))

    async def start(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Load the model; what its workers say of themselves."""
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        await self._llm.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": {}})
        (description, *_) = await self._llm.collective_rpc("forklight_install")
        found: dict[str, Any] = description
        return found

    async def vocabulary_size(self) -> int:
        """Token ids are below it."""
        return int(self._llm.model_config.get_vocab_size())

    async def update_weights(self, paths: Sequence[str], epoch: int) -> None:
        """Load other weights between two steps. Sequences go on; what they remember is computed anew."""
        await self._llm.pause_generation(mode="keep", clear_cache=True)
        await self._llm.collective_rpc("start_weight_update")
        await self._llm.collective_rpc("update_weights", kwargs={"update_info": {"paths": list(paths)}})
        await self._llm.collective_rpc("finish_weight_update")
        await self._llm.collective_rpc("forklight_set_epoch", args=(epoch,))
        await self._llm.resume_generation()

    async def score(self, ids: Sequence[int]) -> list[float]:
        """Log-probs of the tokens after the first."""
        from vllm import SamplingParams

        self._num_scored += 1
        params = SamplingParams(**scoring_values())
        last: Output | None = None
        async for output in self._llm.generate(_prompt(ids), params, f"score-{self._num_scored}"):
            last = output
        assert last is not None
        return read_scores(last)

    def close(self) -> None:
        """End everything; safe to call twice."""
        if not self._loop.is_running():
            return
        self.call(self._shut_down(), 60.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)
        self._loop.close()

    async def _shut_down(self) -> None:
        self._cancel(list(self._tasks))
        if self._llm is not None:
            self._llm.shutdown()
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    def _begin(self, prompt: PromptStart) -> None:
        for start in prompt.sequences:
            task = self._loop.create_task(self._generate(prompt, start))
            self._tasks[start.key] = task
            task.add_done_callback(partial(self._ended, start.key))

    async def _generate(self, prompt: PromptStart, start: SequenceStart) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(**sampling_values(prompt, start), output_kind=RequestOutputKind.DELTA)
        async for output in self._llm.generate(_prompt(token_ids(prompt, start)), params, str(start.key)):
            for delta in read_deltas(start.key, output):
                self._outbox.put(delta)

    def _ended(self, key: int, task: asyncio.Task[None]) -> None:
        self._tasks.pop(key, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._outbox.fail(error)

    def _cancel(self, keys: Sequence[int]) -> None:
        for key in keys:
            task = self._tasks.pop(key, None)
            if task is not None:
                task.cancel()


def _prompt(ids: Sequence[int]) -> dict[str, list[int]]:
    return {"prompt_token_ids": list(ids)}
