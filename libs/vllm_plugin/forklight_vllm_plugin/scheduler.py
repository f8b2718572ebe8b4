"""Ends a sequence that repeats itself, on the exact token, inside vLLM's scheduler.

The one place in vLLM that sees a chosen token's log-probs before it decides whether the sequence goes on.
"""

from __future__ import annotations

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from forklight_vllm_plugin.arguments import read_arguments
from forklight_vllm_plugin.repetition import CertainRun

RAW = 1
"""Column of the log-prob at temperature 1; see sampler.py."""


class RepetitionScheduler(AsyncScheduler):  # type: ignore[misc]
    """Stop, repetition, length: looked at in this order."""

    def __init__(self, *arguments: object, **settings: object) -> None:
        super().__init__(*arguments, **settings)
        self._runs: dict[str, CertainRun] = {}
        self._output: ModelRunnerOutput | None = None

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        """As vLLM's, with the step's log-probs at hand."""
        self._output = model_runner_output
        try:
            outputs: dict[int, EngineCoreOutputs] = super().update_from_output(
                scheduler_output, model_runner_output
            )
            return outputs
        finally:
            self._output = None

    def _update_request_with_output(
        self, request: Request, new_token_ids: list[int]
    ) -> tuple[list[int], bool]:
        new_token_ids, is_stopped = super()._update_request_with_output(request, new_token_ids)
        if new_token_ids and self._is_repeating(request, len(new_token_ids)):
            if not is_stopped or request.status == RequestStatus.FINISHED_LENGTH_CAPPED:
                request.status = RequestStatus.FINISHED_REPETITION
            is_stopped = True
        return new_token_ids, is_stopped

    def _is_repeating(self, request: Request, num_new: int) -> bool:
        output = self._output
        if output is None or output.logprobs is None or request.sampling_params.num_logprobs is None:
            return False
        run = self._runs.get(request.request_id)
        if run is None:
            run = self._runs[request.request_id] = CertainRun(
                read_arguments(request.sampling_params.extra_args)
            )
        row = output.req_id_to_index[request.request_id]
        return run.add(output.logprobs.slice_request(row, num_new).logprobs[:, RAW].tolist())

    def _free_request(self, request: Request, *arguments: object, **settings: object) -> object:
        self._runs.pop(request.request_id, None)
        return super()._free_request(request, *arguments, **settings)
