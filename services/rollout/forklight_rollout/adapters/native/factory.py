"""From published weights to an engine that fits this machine."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace

import torch

from forklight_core.numerics import log_numeric_mode
from forklight_model.cache import PAGE_TOKENS, page_bytes, slot_bytes
from forklight_model.config import ModelConfig
from forklight_model.device import choose_device
from forklight_model.model import HybridModel
from forklight_model.shard import WHOLE, Shard
from forklight_rollout.adapters.native.choices import check_recordable, routing_bytes
from forklight_rollout.adapters.native.engine import NativeEngine, NativeOptions
from forklight_rollout.adapters.published import load_weights, read_config
from forklight_rollout.memory_plan import (
    AUTOMATIC_SHARE,
    CacheCosts,
    MemoryPlan,
    MemoryWish,
    available_bytes,
    plan_memory,
)
from forklight_rollout.ports import EngineFactory
from forklight_rollout.weights.manifest import PublishedWeights

log = logging.getLogger(__name__)

WORKSPACE_SHARE = 16
"""A GPU keeps this fraction (1/n) of its memory for the activations of a step."""


def native_engine_factory(wish: MemoryWish, options: NativeOptions) -> EngineFactory:
    """Engines of this kind, planned to fit into memory. One over several GPUs is closed before the next."""
    previous: list[NativeEngine] = []

    def make(weights: PublishedWeights) -> NativeEngine:
        if options.threads:
            torch.set_num_threads(options.threads)
        config, device = read_config(weights), choose_device(options.device)
        if options.records_routing:
            check_recordable(config)
        while previous:
            previous.pop().close()
        engine = _make_engine(wish, options, weights, device)
        if options.num_gpus > 1:
            previous.append(engine)
        log_numeric_mode(log, engine.numeric_mode)
        return engine

    return make


def _make_engine(
    wish: MemoryWish, options: NativeOptions, weights: PublishedWeights, device: str
) -> NativeEngine:
    if options.num_gpus > 1:
        from forklight_rollout.adapters.native.ranks.assembly import lead_engine

        return lead_engine(wish, options, weights, device)
    model = load_weights(weights, dtype=options.number_type, device=device)
    plan = plan_engine(wish, options, model, device)
    return NativeEngine(model, plan, options, version=weights.version)


def plan_engine(
    wish: MemoryWish,
    options: NativeOptions,
    model: HybridModel,
    device: str,
    *,
    least_free_bytes: int | None = None,
) -> MemoryPlan:
    """What fits beside this model, and beside the next one while it waits for its swap, on every GPU."""
    if device == "cuda" and not wish.budget_bytes:
        free, total = torch.cuda.mem_get_info()
        free = free if least_free_bytes is None else min(free, least_free_bytes)
        staged = sum(each.numel() * each.element_size() for each in model.parameters())
        wish = replace(wish, budget_bytes=max(1, free - staged - total // WORKSPACE_SHARE))
    elif not wish.budget_bytes:
        wish = replace(wish, budget_bytes=available_bytes() // AUTOMATIC_SHARE // model.shard.size)
    costs = cache_costs(model.config, options, device, model.shard)
    plan = plan_memory(wish, costs, max_positions=model.config.max_position_embeddings)
    log.info("memory plan", extra=asdict(plan) | plan.lengths_that_fit() | {"wished": wish.max_batch})
    return plan


def cache_costs(config: ModelConfig, options: NativeOptions, device: str, shard: Shard = WHOLE) -> CacheCosts:
    """Of one part. Caches live on the device, recorded choices beside the process: on a CPU both count."""
    is_counted = options.records_routing and device == "cpu"
    return CacheCosts(
        slot_bytes=slot_bytes(config, options.number_type, device, shard),
        page_bytes=page_bytes(config, options.number_type, shard)
        + (routing_bytes(config, PAGE_TOKENS) if is_counted else 0),
        page_tokens=PAGE_TOKENS,
    )
