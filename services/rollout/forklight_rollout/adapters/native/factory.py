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
from forklight_rollout.adapters.native.choices import check_recordable, routing_bytes
from forklight_rollout.adapters.native.engine import NativeEngine, NativeOptions
from forklight_rollout.adapters.published import load_weights, read_config
from forklight_rollout.manifest import PublishedWeights
from forklight_rollout.memory_plan import CacheCosts, MemoryPlan, MemoryWish, plan_memory
from forklight_rollout.ports import EngineFactory

log = logging.getLogger(__name__)

WORKSPACE_SHARE = 16
"""A GPU keeps this fraction (1/n) of its memory for the activations of a step."""


def native_engine_factory(wish: MemoryWish, options: NativeOptions) -> EngineFactory:
    """Engines of this kind, planned to fit into memory."""

    def make(weights: PublishedWeights) -> NativeEngine:
        if options.threads:
            torch.set_num_threads(options.threads)
        config, device = read_config(weights), choose_device(options.device)
        if options.records_routing:
            check_recordable(config)
        model = load_weights(weights, dtype=options.number_type, device=device)
        plan = plan_engine(wish, options, model, device)
        log.info("memory plan", extra=asdict(plan) | plan.lengths_that_fit() | {"wished": wish.max_batch})
        engine = NativeEngine(model, plan, options, version=weights.version)
        log_numeric_mode(log, engine.numeric_mode)
        return engine

    return make


def plan_engine(wish: MemoryWish, options: NativeOptions, model: HybridModel, device: str) -> MemoryPlan:
    """What fits beside this model, and beside the next one while it waits for its swap."""
    if device == "cuda" and not wish.budget_bytes:
        free, total = torch.cuda.mem_get_info()
        staged = sum(each.numel() * each.element_size() for each in model.parameters())
        wish = replace(wish, budget_bytes=max(1, free - staged - total // WORKSPACE_SHARE))
    costs = cache_costs(model.config, options, device)
    return plan_memory(wish, costs, max_positions=model.config.max_position_embeddings)


def cache_costs(config: ModelConfig, options: NativeOptions, device: str) -> CacheCosts:
    """Caches live on the device; recorded choices live beside the process, so on a CPU both count."""
    is_counted = options.records_routing and device == "cpu"
    return CacheCosts(
        slot_bytes=slot_bytes(config, options.number_type, device),
        page_bytes=page_bytes(config, options.number_type)
        + (routing_bytes(config, PAGE_TOKENS) if is_counted else 0),
        page_tokens=PAGE_TOKENS,
    )
