"""From published weights to an engine that fits this machine."""

from __future__ import annotations

import logging

import torch

from forklight_core.errors import ConfigError
from forklight_core.numerics import log_numeric_mode
from forklight_model.device import choose_device
from forklight_model.hf.generation import check_generation
from forklight_model.hf.policy import HfPolicy
from forklight_model.hf.row_cache import layer_widths, row_bytes
from forklight_rollout.adapters.hf.engine import HfEngine, HfOptions
from forklight_rollout.adapters.hf.weights import load_hf_weights
from forklight_rollout.memory_plan import AUTOMATIC_SHARE, MemoryWish, available_bytes
from forklight_rollout.ports import EngineFactory, EngineLimits
from forklight_rollout.weights.manifest import PublishedWeights

log = logging.getLogger(__name__)

WORKSPACE_SHARE = 8
"""A GPU keeps this fraction (1/n) of its memory for the activations of a prefill and for growing caches."""


def hf_engine_factory(wish: MemoryWish, options: HfOptions) -> EngineFactory:
    """Engines of this kind, planned to fit into memory."""

    def make(weights: PublishedWeights) -> HfEngine:
        if options.threads:
            torch.set_num_threads(options.threads)
        device = choose_device(options.device)
        policy = load_hf_weights(weights, dtype=options.number_type, device=device)
        check_generation(policy)
        engine = HfEngine(policy, plan_limits(wish, policy), version=weights.version)
        log_numeric_mode(log, engine.numeric_mode)
        return engine

    return make


def plan_limits(wish: MemoryWish, policy: HfPolicy) -> EngineLimits:
    """As many rows as fit if all were of the longest length, up to the batch that was asked for."""
    max_tokens = min(wish.max_prompt_tokens + wish.max_new_tokens, policy.config.max_position_embeddings)
    one_row = row_bytes(layer_widths(policy), max_tokens, policy.head_weight.dtype)
    budget = wish.budget_bytes or _free_bytes(policy)
    num_sequences = min(wish.max_batch, budget // one_row)
    if num_sequences < 1:
        raise ConfigError(
            f"one sequence of {max_tokens} tokens takes {one_row / 2**30:.2f} GiB of keys and values, the "
            f"caches may take {budget / 2**30:.2f} GiB: lower sampling.max_new_tokens or "
            "FORKLIGHT_MAX_PROMPT_TOKENS, or raise FORKLIGHT_CACHE_MEMORY_BYTES"
        )
    log.info(
        "memory plan",
        extra={
            "num_sequences": num_sequences,
            "max_tokens": max_tokens,
            "row_bytes": one_row,
            "budget_bytes": budget,
            "wished": wish.max_batch,
        },
    )
    return EngineLimits(
        num_sequences=num_sequences, max_tokens=max_tokens, vocabulary_size=policy.config.vocab_size
    )


def _free_bytes(policy: HfPolicy) -> int:
    """What caches may take beside this model, and beside the next one while it waits for its swap."""
    if policy.device.type != "cuda":
        return available_bytes() // AUTOMATIC_SHARE
    free, total = torch.cuda.mem_get_info(policy.device)
    staged = sum(each.numel() * each.element_size() for each in policy.parameters())
    return max(1, free - staged - total // WORKSPACE_SHARE)
