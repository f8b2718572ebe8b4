"""The engine over vLLM keeps what every engine promises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from forklight_model.model import HybridModel
from forklight_rollout.adapters.vllm import VllmEngine
from forklight_rollout.weights.manifest import PublishedWeights
from services.rollout.tests.engine_contract import CHECKS, EngineCase
from services.rollout.tests.vllm.publishing import nano_model, publish

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def bad_weights(tmp_path_factory: pytest.TempPathFactory) -> PublishedWeights:
    """Verified files with a number in them that is none."""
    model: HybridModel = nano_model(2)
    with torch.no_grad():
        model.lm_head.weight[5, 7] = torch.nan
    root: Path = tmp_path_factory.mktemp("bad")
    return publish(root, model, 2)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_vllm_keeps_the_contract(
    check: Callable[[EngineCase], None],
    engine: VllmEngine,
    published: dict[int, PublishedWeights],
    bad_weights: PublishedWeights,
) -> None:
    check(EngineCase(make=lambda: engine, weights=(published[0], published[1]), bad_weights=bad_weights))
