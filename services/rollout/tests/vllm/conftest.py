"""One engine over a real vLLM for all tests of this folder: starting one takes a minute on a CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest

from forklight_model.model import HybridModel
from forklight_rollout.adapters.vllm import VllmEngine, VllmOptions, vllm_engine_factory
from forklight_rollout.weights.manifest import PublishedWeights
from services.rollout.tests.vllm.publishing import nano_model, publish

HERE = Path(__file__).parent
CACHE_BYTES = 256 * 2**20
IS_INSTALLED = find_spec("vllm") is not None and any(
    each.name == "forklight" for each in entry_points(group="vllm.general_plugins")
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    absent = pytest.mark.skip(reason="vLLM with forklight-vllm-plugin is not installed: make test-vllm")
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("vllm"):
            item.add_marker(pytest.mark.filterwarnings("default"))  # vLLM's own are not ours to mend
            if not IS_INSTALLED:
                item.add_marker(absent)


@pytest.fixture(scope="session")
def models() -> dict[int, HybridModel]:
    return {version: nano_model(version) for version in (0, 1)}


@pytest.fixture(scope="session")
def published(
    tmp_path_factory: pytest.TempPathFactory, models: dict[int, HybridModel]
) -> dict[int, PublishedWeights]:
    """Both versions, verified. Tests must not touch the files."""
    root = tmp_path_factory.mktemp("weights")
    return {version: publish(root, model, version) for version, model in models.items()}


@pytest.fixture(scope="session")
def engine(published: dict[int, PublishedWeights]) -> Iterator[VllmEngine]:
    """On version 0 at first; four sequences of up to 200 tokens, prompts in pieces of 48."""
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    options = VllmOptions(
        dtype="float32", num_sequences=4, max_tokens=200, cache_bytes=CACHE_BYTES, step_tokens=48
    )
    made = vllm_engine_factory(options)(published[0])
    assert isinstance(made, VllmEngine)
    yield made
    made.close()
