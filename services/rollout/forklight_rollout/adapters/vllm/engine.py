"""The port over vLLM: sequences are streams of an AsyncLLM, weights are swapped in place between two steps.

vLLM schedules, pages and batches; draws, log-probs and the repetition stop are the plugin's, for any model.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from forklight.v1 import types_pb2
from forklight_core.errors import ForklightError, InvalidInputError, WeightsError
from forklight_core.numerics import CPU, log_numeric_mode
from forklight_rollout.adapters.vllm.install import require_vllm
from forklight_rollout.adapters.vllm.launch import engine_arguments
from forklight_rollout.adapters.vllm.model_folder import make_model_folder, max_positions, shard_paths
from forklight_rollout.adapters.vllm.options import VllmOptions
from forklight_rollout.adapters.vllm.outbox import Delta, Outbox
from forklight_rollout.adapters.vllm.served import ServedModel
from forklight_rollout.adapters.vllm.staging import check_successor, check_values
from forklight_rollout.ports import EngineFactory, EngineLimits, EngineTraits, PromptStart, StepTokens
from forklight_rollout.weights.manifest import PublishedWeights

log = logging.getLogger(__name__)

WAIT_S = 0.05
"""How long a step waits for tokens at most."""
ROOM_TO_SCORE = 1
"""vLLM draws a token after every prompt, also one that is only scored."""


def vllm_engine_factory(options: VllmOptions) -> EngineFactory:
    """Engines of this kind; ConfigError at once where vLLM is missing or another release."""
    require_vllm()

    def make(weights: PublishedWeights) -> VllmEngine:
        engine = VllmEngine(weights, options)
        log_numeric_mode(log, engine.numeric_mode)
        return engine

    return make


class VllmEngine:
    """See `ports.Engine`. Each sequence of a group prefills the prompt anew, unless prefixes are cached."""

    def __init__(self, weights: PublishedWeights, options: VllmOptions) -> None:
        check_values(weights)
        self._options, self._running = options, weights
        self._versions = [weights.version]  # by epoch
        self._staged: tuple[PublishedWeights, TemporaryDirectory[str]] | None = None
        self._staging = threading.Lock()
        self._model_s = 0.0
        self._outbox = Outbox()
        self._folder = make_model_folder(weights)
        self._served = ServedModel(self._outbox)
        max_model_tokens = options.max_tokens + ROOM_TO_SCORE
        if (most := max_positions(weights)) is not None:
            max_model_tokens = min(max_model_tokens, most)
        self._description = self._start(max_model_tokens)
        self._limits = EngineLimits(
            num_sequences=options.num_sequences,
            max_tokens=max_model_tokens - ROOM_TO_SCORE,
            vocabulary_size=self._served.call(self._served.vocabulary_size(), options.call_s),
        )
        self._check_kernels(weights)

    @property
    def limits(self) -> EngineLimits:
        return self._limits

    @property
    def traits(self) -> EngineTraits:
        found, is_asked = self._description, self._options.is_batch_invariant
        return EngineTraits(
            exact_kernels=tuple(found["exact_kernels"]),
            is_batch_invariant=is_asked or bool(found["keeps_contract"]),
        )

    @property
    def version(self) -> int:
        return self._versions[-1]

    @property
    def numeric_mode(self) -> types_pb2.NumericMode:
        found = self._description
        kernels = ", ".join(found["exact_kernels"])
        ours = f"{kernels} are the trainer's kernels" if kernels else "no kernel is the trainer's"
        return types_pb2.NumericMode(
            is_parity=False,
            reason=f"vLLM cuts prompts and builds batches its own way; {ours}; equal bits are not promised",
            contract=found["contract"],
            device=found["device"],
            torch=found["torch"],
            triton=found["triton"],
        )

    @property
    def model_s(self) -> float:
        """Upper bound: the time in which this engine was waited for; vLLM does not tell its own."""
        return self._model_s

    def admit(self, prompt: PromptStart) -> None:
        self._outbox.check()
        self._check_room(prompt)
        self._outbox.open([start.key for start in prompt.sequences])
        self._served.post(prompt)

    def step(self) -> StepTokens:
        started, is_awaited = time.perf_counter(), self._outbox.is_awaited
        deltas = self._outbox.take(WAIT_S)
        if is_awaited:
            self._model_s += time.perf_counter() - started
        return self._tokens(deltas)

    def retire(self, keys: Sequence[int]) -> None:
        self._served.cancel(self._outbox.close(keys))

    def score(self, ids: Sequence[int]) -> Sequence[float]:
        self._outbox.check()
        if not 2 <= len(ids) <= self._limits.max_tokens:
            most = self._limits.max_tokens
            raise InvalidInputError(f"{len(ids)} tokens cannot be scored; 2 to {most} can")
        return self._served.call(self._served.score(ids), self._options.call_s)

    def stage(self, weights: PublishedWeights) -> None:
        if not self._description["loads_in_place"] and self._description["device"] == CPU:
            raise WeightsError(
                f"version {weights.version}: vLLM's CPU build keeps repacked copies of this model's weights "
                "and would go on with the old ones; restart the pod to load other weights"
            )
        check_successor(weights, self._running)
        folder = make_model_folder(weights)
        with self._staging:
            before, self._staged = self._staged, (weights, folder)
        if before is not None:
            before[1].cleanup()

    def swap(self) -> None:
        with self._staging:
            staged, self._staged = self._staged, None
        if staged is None:
            raise WeightsError("no weights are staged: call stage first")
        weights, folder = staged
        paths = [str(path) for path in shard_paths(folder.name)]
        update = self._served.update_weights(paths, epoch=len(self._versions))
        self._versions.append(weights.version)
        try:
            self._served.call(update, self._options.call_s)
        except ForklightError as error:
            # Some tensors may be new and others old: nothing may be drawn from them.
            self._outbox.fail(error)
            raise
        finally:
            folder.cleanup()
        self._running = weights

    def close(self) -> None:
        """End vLLM's processes; the engine cannot be used afterwards."""
        self._served.close()
        self._folder.cleanup()
        if self._staged is not None:
            self._staged[1].cleanup()

    def _start(self, max_model_tokens: int) -> Mapping[str, Any]:
        from vllm.platforms import current_platform

        arguments = engine_arguments(
            Path(self._folder.name),
            self._options,
            max_model_tokens=max_model_tokens,
            device=current_platform.device_type,
        )
        try:
            return self._served.call(self._served.start(arguments), self._options.start_s)
        except ForklightError:
            self.close()
            raise

    def _check_room(self, prompt: PromptStart) -> None:
        """vLLM would refuse such a sequence too, but as a failure of its engine."""
        most = self._limits.max_tokens
        for start in prompt.sequences:
            num_fed = len(prompt.prompt_ids) + len(start.prefix_ids)
            if not 0 < num_fed < most or len(start.prefix_ids) >= prompt.end.max_new_tokens:
                raise InvalidInputError(
                    f"sequence {start.key} has a prompt and prefix of {num_fed} tokens; it may have {most}, "
                    f"and {prompt.end.max_new_tokens} in its response: nothing is left to draw"
                )

    def _check_kernels(self, weights: PublishedWeights) -> None:
        """As the native engine: kernels that round otherwise would make every log-prob a little wrong."""
        mine, theirs = self._description["contract"], weights.manifest.kernels
        if self._description["exact_kernels"] and mine != theirs:
            self.close()
            raise WeightsError(
                f"version {weights.version} in {weights.folder} was made under the kernels' contract "
                f"{theirs!r}, this pod computes under {mine!r}: bring trainer and rollout pods to one release"
            )

    def _tokens(self, deltas: Sequence[Delta]) -> StepTokens:
        return StepTokens(
            version=self._versions[deltas[0].epoch] if deltas else self.version,
            keys=[delta.key for delta in deltas for _ in delta.ids],
            ids=[token for delta in deltas for token in delta.ids],
            logprobs=[value for delta in deltas for value in delta.logprobs],
            raw_logprobs=[value for delta in deltas for value in delta.raw_logprobs],
            reasons=[
                delta.reason if number == len(delta.ids) - 1 else None
                for delta in deltas
                for number in range(len(delta.ids))
            ],
        )
