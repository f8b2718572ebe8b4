"""vLLM's sampler replaced by ours: our draws, and three numbers a token instead of one.

vLLM returns log-probs in one mode only. Here column 0 is the log-prob where the token was drawn, column 1
the model's own, column 2 counts the weights that drew it. Legend: B sequences, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from vllm.v1.outputs import LogprobsTensors, SamplerOutput
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from forklight_kernels import SampledTokens
from forklight_vllm_plugin.arguments import RequestArguments, read_arguments
from forklight_vllm_plugin.drawing import DrawBatch, draw


class RolloutSampler(Sampler):  # type: ignore[misc]
    """Installed in the model runner after the engine has started."""

    def __init__(self, runner: GPUModelRunner) -> None:
        super().__init__(logprobs_mode="processed_logprobs")
        self._runner = runner
        self.epoch = 0
        """Weight updates so far: column 2 of every token."""
        self._names: list[str] = []
        self._batch: DrawBatch | None = None

    def forward(
        self,
        logits: Tensor,
        sampling_metadata: SamplingMetadata,
        predict_bonus_token: bool = False,
        logprobs_mode_override: str | None = None,
    ) -> SamplerOutput:
        """Draw every row's next token."""
        num_rows = len(logits)
        drawn = draw(logits, self._batch_of_step(logits.device), self._runner.seq_lens[:num_rows])
        return SamplerOutput(
            sampled_token_ids=drawn.ids_B.to(torch.int32)[:, None],
            logprobs_tensors=self._columns(drawn, vocabulary_size=logits.shape[1]),
        )

    def _batch_of_step(self, device: torch.device) -> DrawBatch:
        """The rules of the rows, made anew when other sequences run."""
        names = list(self._runner.input_batch.req_ids)
        if self._batch is None or names != self._names:
            rows = [self._arguments_of(name) for name in names]
            self._names, self._batch = names, DrawBatch.of(rows, device)
        return self._batch

    def _arguments_of(self, name: str) -> RequestArguments:
        return read_arguments(self._runner.requests[name].sampling_params.extra_args)

    def _columns(self, drawn: SampledTokens, vocabulary_size: int) -> LogprobsTensors:
        """The names of columns 1 and 2 are no token's: vLLM keeps log-probs of a place by token id."""
        ids_B = drawn.ids_B.to(torch.int32)
        column_ids = [ids_B, *(torch.full_like(ids_B, vocabulary_size + extra) for extra in (0, 1))]
        values = [drawn.logprobs_B, drawn.raw_logprobs_B, torch.full_like(drawn.logprobs_B, self.epoch)]
        return LogprobsTensors(
            logprob_token_ids=torch.stack(column_ids, dim=1),
            logprobs=torch.stack(values, dim=1),
            selected_token_ranks=torch.zeros_like(ids_B),
        )
