"""The engine on `forklight_model`: the trainer's own blocks over a cache of slots.

Running sequences live in slots 0 to n-1 without holes (the last takes a retired one's place), so the model
decodes them in place; behind them are slots for prompts, prefilled once a group and forked to its samples.

Legend: S slots, B running sequences, M sequences of one prompt, V vocabulary.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from forklight_core.errors import WeightsError
from forklight_kernels import SampledTokens, sampler
from forklight_model.cache import HybridCache, cache_bytes
from forklight_model.inference import decode
from forklight_model.model import HybridModel
from forklight_rollout.adapters.decode_batch import DecodeBatch
from forklight_rollout.adapters.prompts import Prompt, PromptSlots
from forklight_rollout.adapters.published import load_weights, read_config
from forklight_rollout.manifest import PublishedWeights
from forklight_rollout.memory_plan import MemoryPlan, MemoryWish, plan_memory
from forklight_rollout.ports import EngineFactory, EngineLimits, PromptStart, StepTokens

log = logging.getLogger(__name__)


def native_engine_factory(wish: MemoryWish, *, dtype: str, threads: int) -> EngineFactory:
    """Engines of this kind, planned to fit into memory."""

    def make(weights: PublishedWeights) -> NativeEngine:
        if threads:
            torch.set_num_threads(threads)
        config, number_type = read_config(weights), _number_type(dtype)
        plan = plan_memory(
            wish,
            max_positions=config.max_position_embeddings,
            slots_bytes=lambda slots, tokens: cache_bytes(config, slots, tokens, number_type),
        )
        log.info("memory plan", extra=asdict(plan) | {"wished_sequences": wish.max_batch})
        return NativeEngine(load_weights(weights, dtype=number_type), plan, version=weights.version)

    return make


def _number_type(name: str) -> torch.dtype:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


class NativeEngine:
    """See `ports.Engine`."""

    def __init__(self, model: HybridModel, plan: MemoryPlan, *, version: int) -> None:
        self._model = model
        self._version = version
        self._limits = EngineLimits(
            num_sequences=plan.num_sequences,
            max_tokens=plan.max_tokens,
            vocabulary_size=model.config.vocab_size,
        )
        self._cache = HybridCache(
            model.config,
            num_slots=plan.num_slots,
            max_tokens=plan.max_tokens,
            dtype=model.lm_head.weight.dtype,
        )
        self._prompts = PromptSlots(self._cache, first_slot=plan.num_sequences)
        self._batch = DecodeBatch(self._cache, plan.num_sequences)
        self._staged: tuple[HybridModel, int] | None = None
        self._staging = threading.Lock()
        self._model_s = 0.0

    @property
    def limits(self) -> EngineLimits:
        return self._limits

    @property
    def version(self) -> int:
        return self._version

    @property
    def model_s(self) -> float:
        return self._model_s

    def admit(self, prompt: PromptStart) -> None:
        self._prompts.admit(prompt)

    @torch.inference_mode()
    def step(self) -> StepTokens:
        keys: list[int] = []
        drawn: list[SampledTokens] = []
        if self._batch.keys:
            keys += self._batch.keys
            drawn.append(self._decode())
        for prompt, logits_V in self._prefill():
            keys += [start.key for start in prompt.waiting]
            drawn.append(self._start(prompt, logits_V))
        return StepTokens(
            keys=keys,
            ids=[token for tokens in drawn for token in tokens.ids_B.tolist()],
            logprobs=[logprob for tokens in drawn for logprob in tokens.logprobs_B.tolist()],
            raw_logprobs=[logprob for tokens in drawn for logprob in tokens.raw_logprobs_B.tolist()],
        )

    def retire(self, keys: Sequence[int]) -> None:
        for key in keys:
            if not self._batch.remove(key):
                self._prompts.forget(key)

    def stage(self, weights: PublishedWeights) -> None:
        model = load_weights(weights, dtype=self._model.lm_head.weight.dtype, expected=self._model.config)
        with self._staging:
            self._staged = (model, weights.version)

    def swap(self) -> None:
        with self._staging:
            if self._staged is None:
                raise WeightsError("no weights are staged: call stage first")
            self._model, self._version = self._staged
            self._staged = None
        self._prompts.invalidate()

    def _decode(self) -> SampledTokens:
        started = time.perf_counter()
        batch = self._batch
        logits_BV = decode(self._model, self._cache, batch.slots_B, batch.last_ids_B)
        tokens = sampler(logits_BV, batch.request)
        self._model_s += time.perf_counter() - started
        batch.advance(tokens.ids_B)
        return tokens

    def _prefill(self) -> list[tuple[Prompt, Tensor]]:
        """One round of prefill; the prompts whose sequences can start now."""
        started = time.perf_counter()
        ready = self._prompts.advance(self._model)
        self._model_s += time.perf_counter() - started
        return ready

    def _start(self, prompt: Prompt, logits_V: Tensor) -> SampledTokens:
        """Fork a prompt to its waiting sequences and draw their first tokens."""
        request_M = self._batch.append(prompt)
        started = time.perf_counter()
        tokens = sampler(logits_V.expand(len(prompt.waiting), -1), request_M)
        self._model_s += time.perf_counter() - started
        self._batch.start(tokens.ids_B)
        self._prompts.started(prompt)
        return tokens
