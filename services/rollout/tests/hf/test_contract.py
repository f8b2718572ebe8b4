"""The engine on transformers keeps the contract of engines, for a dense model, for experts, for a window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from forklight_model.hf.install import numerics
from forklight_rollout.adapters.hf import HfEngine, HfOptions, hf_engine_factory
from forklight_rollout.memory_plan import MemoryWish
from forklight_rollout.weights.manifest import PublishedWeights
from libs.model.tests.hf.tiny import KINDS, tiny_policy
from services.rollout.tests.engine_contract import (
    CHECKS,
    EngineCase,
    check_a_partial_response_goes_on_as_the_whole,
    check_draws_do_not_depend_on_what_else_runs,
    check_scores_are_the_logprobs_of_the_draws,
    check_swapped_weights_are_the_ones_that_draw,
)
from services.rollout.tests.vllm.publishing import publish_tensors

WISH = MemoryWish(max_batch=4, max_prompt_tokens=130, max_new_tokens=64, budget_bytes=2**30)
OPTIONS = HfOptions(dtype="float32", device="cpu", threads=1)

ABOUT_NUMBERS = (
    check_a_partial_response_goes_on_as_the_whole,
    check_draws_do_not_depend_on_what_else_runs,
    check_scores_are_the_logprobs_of_the_draws,
    check_swapped_weights_are_the_ones_that_draw,
)
CASES = [(check, "llama") for check in CHECKS]
CASES += [(check, kind) for check in ABOUT_NUMBERS for kind in sorted(KINDS) if kind != "llama"]
"""All checks for one model; for the others those that another architecture could break."""

Publish = Callable[[str, int], PublishedWeights]


@pytest.fixture(scope="module")
def publish(tmp_path_factory: pytest.TempPathFactory) -> Publish:
    """A version of a kind of model, once."""
    root: Path = tmp_path_factory.mktemp("hf")

    @cache
    def make(kind: str, version: int) -> PublishedWeights:
        policy = tiny_policy(kind, seed=version)
        tensors = {name: tensor.clone() for name, tensor in policy.published_tensors()}
        config = policy.config.to_published()
        return publish_tensors(root / kind, tensors, config, version, kernels=numerics())

    return make


@pytest.fixture(scope="module")
def engine_of(publish: Publish) -> Callable[[str], HfEngine]:
    """One engine a kind, for all checks."""

    @cache
    def make(kind: str) -> HfEngine:
        engine = hf_engine_factory(WISH, OPTIONS)(publish(kind, 0))
        assert isinstance(engine, HfEngine)
        return engine

    return make


@pytest.mark.parametrize(("check", "kind"), CASES, ids=lambda each: getattr(each, "__name__", each))
def test_the_engine_on_transformers_keeps_the_contract(
    check: Callable[[EngineCase], None], kind: str, engine_of: Callable[[str], HfEngine], publish: Publish
) -> None:
    weights = publish(kind, 1)
    tensors = dict(weights.manifest.tensors)
    tensors["model.norm.weight"] = replace(tensors["model.norm.weight"], shape=(3,))
    torn = replace(weights, manifest=replace(weights.manifest, tensors=tensors, version=9))
    check(
        EngineCase(
            make=lambda: engine_of(kind), weights=(publish(kind, 0), publish(kind, 1)), bad_weights=torn
        )
    )
