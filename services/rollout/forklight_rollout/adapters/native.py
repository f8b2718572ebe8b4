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
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from forklight.v1 import types_pb2
from forklight_core.errors import WeightsError
from forklight_core.numerics import log_numeric_mode
from forklight_core.wire import RoutingArrays
from forklight_kernels import SampledTokens, sampler
from forklight_model.cache import HybridCache, cache_bytes
from forklight_model.config import ModelConfig
from forklight_model.device import choose_device
from forklight_model.inference import decode
from forklight_model.model import HybridModel
from forklight_model.parity import check_numeric_mode
from forklight_model.routing import Routing
from forklight_rollout.adapters.choices import check_recordable, cut_choices, read_choices, routing_bytes
from forklight_rollout.adapters.decode_batch import DecodeBatch
from forklight_rollout.adapters.prompts import Prompt, PromptSlots
from forklight_rollout.adapters.published import load_weights, read_config
from forklight_rollout.manifest import PublishedWeights
from forklight_rollout.memory_plan import AUTOMATIC_SHARE, MemoryPlan, MemoryWish, plan_memory
from forklight_rollout.ports import EngineFactory, EngineLimits, PromptStart, StepTokens

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeOptions:
    """How engines of this kind compute."""

    dtype: str
    device: str = "auto"
    threads: int = 0  # 0 lets torch choose
    records_routing: bool = False

    @property
    def number_type(self) -> torch.dtype:
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.dtype]


def native_engine_factory(wish: MemoryWish, options: NativeOptions) -> EngineFactory:
    """Engines of this kind, planned to fit into memory."""

    def make(weights: PublishedWeights) -> NativeEngine:
        if options.threads:
            torch.set_num_threads(options.threads)
        config, device = read_config(weights), choose_device(options.device)
        if options.records_routing:
            check_recordable(config)
        plan = _plan(wish, options, config, device)
        log.info("memory plan", extra=asdict(plan) | {"wished_sequences": wish.max_batch})
        model = load_weights(weights, dtype=options.number_type, device=device)
        engine = NativeEngine(model, plan, version=weights.version, records_routing=options.records_routing)
        log_numeric_mode(log, engine.numeric_mode)
        return engine

    return make


def _plan(wish: MemoryWish, options: NativeOptions, config: ModelConfig, device: str) -> MemoryPlan:
    """Caches live on the device; recorded choices live beside the process, so on a CPU both count."""
    is_counted = options.records_routing and device == "cpu"
    if device == "cuda" and not wish.budget_bytes:
        wish = replace(wish, budget_bytes=torch.cuda.mem_get_info()[0] // AUTOMATIC_SHARE)

    def slots_bytes(slots: int, tokens: int) -> int:
        choices = slots * routing_bytes(config, tokens) if is_counted else 0
        return choices + cache_bytes(config, slots, tokens, options.number_type, device)

    return plan_memory(wish, max_positions=config.max_position_embeddings, slots_bytes=slots_bytes)


class NativeEngine:
    """See `ports.Engine`."""

    def __init__(
        self, model: HybridModel, plan: MemoryPlan, *, version: int, records_routing: bool = False
    ) -> None:
        self._model = model
        self._version = version
        self._limits = EngineLimits(
            num_sequences=plan.num_sequences,
            max_tokens=plan.max_tokens,
            vocabulary_size=model.config.vocab_size,
        )
        weight = model.lm_head.weight
        mode = check_numeric_mode(weight.device.type, weight.dtype)
        self._numeric_mode = types_pb2.NumericMode(**asdict(mode))
        self._cache = HybridCache(
            model.config,
            num_slots=plan.num_slots,
            max_tokens=plan.max_tokens,
            dtype=weight.dtype,
            device=weight.device,
        )
        self._records_routing = records_routing
        self._prompts = PromptSlots(
            self._cache, first_slot=plan.num_sequences, records_routing=records_routing
        )
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
    def numeric_mode(self) -> types_pb2.NumericMode:
        return self._numeric_mode

    @property
    def model_s(self) -> float:
        return self._model_s

    def admit(self, prompt: PromptStart) -> None:
        self._prompts.admit(prompt)

    @torch.inference_mode()
    def step(self) -> StepTokens:
        keys: list[int] = []
        drawn: list[SampledTokens] = []
        choices: list[RoutingArrays] = []
        if self._batch.keys:
            keys += self._batch.keys
            tokens, choices = self._decode()
            drawn.append(tokens)
        for prompt, logits_V in self._prefill():
            keys += [start.key for start in prompt.waiting]
            choices += prompt.choices * len(prompt.waiting)
            drawn.append(self._start(prompt, logits_V))
        return StepTokens(
            keys=keys,
            ids=[token for tokens in drawn for token in tokens.ids_B.tolist()],
            logprobs=[logprob for tokens in drawn for logprob in tokens.logprobs_B.tolist()],
            raw_logprobs=[logprob for tokens in drawn for logprob in tokens.raw_logprobs_B.tolist()],
            routing=choices if self._records_routing else None,
        )

    def retire(self, keys: Sequence[int]) -> None:
        for key in keys:
            if not self._batch.remove(key):
                self._prompts.forget(key)

    def stage(self, weights: PublishedWeights) -> None:
        weight = self._model.lm_head.weight
        model = load_weights(weights, dtype=weight.dtype, device=weight.device, expected=self._model.config)
        with self._staging:
            self._staged = (model, weights.version)

    def swap(self) -> None:
        with self._staging:
            if self._staged is None:
                raise WeightsError("no weights are staged: call stage first")
            self._model, self._version = self._staged
            self._staged = None
        self._prompts.invalidate()

    def _decode(self) -> tuple[SampledTokens, list[RoutingArrays]]:
        """Everyone's next token, and what the routers chose for the last one if that is recorded."""
        started = time.perf_counter()
        batch = self._batch
        routing = Routing() if self._records_routing else None
        logits_BV = decode(self._model, self._cache, batch.slots_B, batch.last_ids_B, routing)
        tokens = sampler(logits_BV, batch.request)
        choices = cut_choices(read_choices(routing), [1] * len(batch.keys)) if routing is not None else []
        self._model_s += time.perf_counter() - started
        batch.advance(tokens.ids_B)
        return tokens, choices

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
