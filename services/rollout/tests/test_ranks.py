"""One engine over two processes draws what one process draws, in bits, and swaps weights in both or in none.

On a CPU, over gloo, with products that add in the contract's order.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from forklight_core.errors import ConfigError, WeightsError
from forklight_kernels import Backend, using_backend
from forklight_rollout.adapters.native import NativeEngine
from forklight_rollout.adapters.native.ranks import followers
from forklight_rollout.adapters.published import load_weights
from forklight_rollout.weights.manifest import PublishedWeights
from libs.model.tests.ordered_products import OrderedProducts
from services.rollout.tests.ranks_scenario import (
    CONFIG,
    PROMPT,
    Played,
    make_engine,
    play,
    publish,
    publish_as,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def weights(root: Path) -> list[PublishedWeights]:
    return [publish(root / "weights", CONFIG, version) for version in (0, 1)]


@pytest.fixture(scope="module")
def led(weights: list[PublishedWeights]) -> Iterator[NativeEngine]:
    """The engine that both of the tests about numbers use, the follower's products ordered as ours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            followers, "FOLLOWER", (sys.executable, str(Path(__file__).with_name("ranks_follower.py")))
        )
        engine = make_engine(weights[0], 2)
    yield engine
    engine.close()


def replay(engine: NativeEngine, new: PublishedWeights) -> Played:
    with using_backend(Backend.TORCH), OrderedProducts():
        return play(engine, new, PROMPT)


def test_two_processes_draw_what_one_draws(led: NativeEngine, weights: list[PublishedWeights]) -> None:
    whole = make_engine(weights[0], 1)
    assert led._pool.num_pages == whole._pool.num_pages and led.limits == whole.limits
    expected, found = (replay(engine, weights[1]) for engine in (whole, led))
    assert asdict(found) == asdict(expected)
    assert led.num_preempted == whole.num_preempted > 0
    assert set(expected.versions[51]) == {0, 1} and expected.scores[0] != expected.scores[1]
    assert len(expected.ids[32]) == 30 - 9 and len(expected.ids[12]) < 25 and 55 not in expected.ids
    assert not led.numeric_mode.is_parity and "process 0" in led.numeric_mode.reason


def test_weights_that_one_process_refuses_change_nothing(
    led: NativeEngine, weights: list[PublishedWeights], root: Path
) -> None:
    before = list(led.score(PROMPT[:30]))
    version = led.version
    model = load_weights(weights[version], dtype=torch.float32)
    model.lm_head.weight[-1, 0] = torch.nan  # of the second process's part
    torn = publish_as(root / "torn", model, 2)
    with pytest.raises(WeightsError, match=r"version 2 .* process 1: .*lm_head.weight holds .* not finite"):
        led.stage(torn)
    with pytest.raises(WeightsError, match="nothing|no weights are staged"):
        led.swap()
    assert (led.version, list(led.score(PROMPT[:30]))) == (version, before)
    led.stage(weights[1 - version])
    led.swap()
    assert led.version == 1 - version and list(led.score(PROMPT[:30])) != before


def test_a_model_that_cannot_be_cut_is_refused_before_anything_starts(
    weights: list[PublishedWeights],
) -> None:
    with pytest.raises(ConfigError, match="num_attention_heads = 4 cannot be cut into 8"):
        make_engine(weights[0], 8)
