"""One engine over two processes draws what one process draws, and says so when a process is lost.

On a CPU, over gloo, with products that add in the contract's order: everything is compared in bits.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from forklight_core.errors import ConfigError, UnavailableError, WeightsError
from forklight_kernels import Backend, using_backend
from forklight_model.checkpoint import published_tensors
from forklight_model.config import ModelConfig
from forklight_model.model import HybridModel
from forklight_rollout.adapters.native import NativeEngine, NativeOptions, native_engine_factory
from forklight_rollout.adapters.native.ranks import followers
from forklight_rollout.adapters.native.ranks.leader import LeadingRunner
from forklight_rollout.adapters.published import load_weights
from forklight_rollout.manifest import PublishedWeights
from forklight_rollout.memory_plan import MemoryWish
from forklight_rollout.ports import DrawRules, EndRules, PromptStart, SequenceStart
from libs.model.tests.ordered_products import OrderedProducts
from services.rollout.tests.ranks_scenario import Played, play, publish, publish_as

FOLDER = Path(__file__).parent
CONFIG = ModelConfig(
    vocab_size=104,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=3,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=16,
    rotary_dim=8,
    num_local_experts=4,
    num_experts_per_tok=2,
    attn_type_list=(0, 1, 0),
    max_position_embeddings=2048,
    initializer_range=0.2,
)
PROMPT = tuple(7 + index * 13 % 90 for index in range(500))
TIGHT_BYTES = 1_280_000
"""Four sequences have slots, but not all of their pages once they are past 512 tokens."""
DEADLINE_S = 30.0


def make_engine(weights: PublishedWeights, num_gpus: int, **options: object) -> NativeEngine:
    """Planned alike: a part of a cache takes its part of the bytes."""
    wish = MemoryWish(
        max_batch=4, max_prompt_tokens=500, max_new_tokens=64, budget_bytes=TIGHT_BYTES // num_gpus
    )
    values = {"dtype": "float32", "device": "cpu", "threads": 1, "gpus_deadline_s": DEADLINE_S} | options
    engine = native_engine_factory(wish, NativeOptions(num_gpus=num_gpus, **values))(weights)  # type: ignore[arg-type]
    assert isinstance(engine, NativeEngine)
    return engine


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
        patch.setattr(followers, "FOLLOWER", (sys.executable, str(FOLDER / "ranks_follower.py")))
        engine = make_engine(weights[0], 2)
    yield engine
    engine.close()


Lead = Callable[..., NativeEngine]


@pytest.fixture
def lead(weights: list[PublishedWeights]) -> Iterator[Lead]:
    """An engine of the test's own, whose follower it may kill."""
    made: list[NativeEngine] = []

    def make(**options: object) -> NativeEngine:
        made.append(make_engine(weights[0], 2, **options))
        return made[-1]

    yield make
    for engine in made:
        engine.close()
        assert follower_of(engine).poll() is not None


def follower_of(engine: NativeEngine) -> subprocess.Popen[bytes]:
    runner = engine._runner
    assert isinstance(runner, LeadingRunner)
    return runner._followers.members[0].process


def begin(engine: NativeEngine) -> None:
    """Something that goes on for a while."""
    engine.admit(
        PromptStart(
            group=1,
            prompt_ids=PROMPT[:20],
            draw=DrawRules(temperature=1.0),
            end=EndRules(max_new_tokens=60),
            sequences=tuple(SequenceStart(key=key, seed=key) for key in range(3)),
        )
    )
    for _ in range(4):
        assert engine.step().keys


def step_until_it_fails(engine: NativeEngine) -> None:
    for _ in range(200):
        engine.step()


def replay(engine: NativeEngine, new: PublishedWeights) -> Played:
    with using_backend(Backend.TORCH), OrderedProducts():
        return play(engine, new, PROMPT)


def test_two_processes_draw_what_one_draws(led: NativeEngine, weights: list[PublishedWeights]) -> None:
    whole = make_engine(weights[0], 1)
    assert led._pool.num_pages == whole._pool.num_pages and led.limits == whole.limits
    expected, found = (replay(engine, weights[1]) for engine in (whole, led))
    assert asdict(found) == asdict(expected)
    assert led.num_preempted == whole.num_preempted > 0
    assert set(expected.versions[11]) == {0, 1} and expected.scores[0] != expected.scores[1]
    assert len(expected.ids[32]) == 30 - 9 and 0 < len(expected.ids[12]) < 40
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


def test_a_process_that_is_killed_ends_the_engine_at_once(lead: Lead) -> None:
    engine = lead()
    begin(engine)
    follower_of(engine).kill()
    started = time.monotonic()
    for _ in range(2):
        with pytest.raises(UnavailableError, match=r"process 1 \(pid \d+\) was ended by SIGKILL"):
            step_until_it_fails(engine)
    assert time.monotonic() - started < DEADLINE_S / 2


def test_a_process_that_stands_still_ends_the_engine_after_its_deadline(lead: Lead) -> None:
    engine = lead(gpus_deadline_s=4.0)
    begin(engine)
    os.kill(follower_of(engine).pid, signal.SIGSTOP)
    with pytest.raises(UnavailableError, match="does not answer"):
        step_until_it_fails(engine)


def test_a_process_that_went_astray_ends_the_engine(lead: Lead) -> None:
    engine = lead()
    begin(engine)
    engine._runner.columns.move(0, 1)  # nobody is told
    with pytest.raises(UnavailableError, match="process 1 holds other tokens than process 0"):
        step_until_it_fails(engine)


def test_a_follower_ends_with_its_leader(weights: list[PublishedWeights]) -> None:
    manifest = str(weights[0].folder / "manifest.json")
    command = [sys.executable, str(FOLDER / "ranks_leader.py"), manifest, weights[0].manifest_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as leader:
        assert leader.stdout is not None
        try:
            assert select.select([leader.stdout], [], [], 60.0)[0], "the leader has not started"
            follower = int(leader.stdout.readline())
            assert is_running(follower)
        finally:
            leader.kill()
    end = time.monotonic() + 10.0
    while is_running(follower):
        assert time.monotonic() < end, "the follower lives on"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Not gone, and not only waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_model_that_cannot_be_cut_is_refused_before_anything_starts(
    weights: list[PublishedWeights],
) -> None:
    with pytest.raises(ConfigError, match="num_key_value_heads = 4 cannot be cut into 8"):
        make_engine(weights[0], 8)


def test_parts_are_loaded_as_the_whole_is(weights: list[PublishedWeights]) -> None:
    whole = load_weights(weights[0], dtype=torch.float32)
    assert isinstance(whole, HybridModel)
    for name, tensor in published_tensors(whole):
        assert tuple(tensor.shape) == weights[0].manifest.tensors[name].shape
