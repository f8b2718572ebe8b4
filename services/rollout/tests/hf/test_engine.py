"""What the engine on transformers refuses, plans and swaps; and that a run file chooses it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from forklight_core.errors import ConfigError, WeightsError
from forklight_core.runfile import RunFile
from forklight_model.hf.install import numerics
from forklight_model.hf.policy import HfPolicy
from forklight_rollout.adapters.hf import HfEngine, HfOptions, hf_engine_factory
from forklight_rollout.adapters.hf.engine import ROUND_TOKENS
from forklight_rollout.adapters.vllm.model_folder import make_model_folder, shard_paths
from forklight_rollout.engines import choose_engine
from forklight_rollout.memory_plan import MemoryWish
from forklight_rollout.ports import SequenceStart
from forklight_rollout.settings import RolloutSettings
from forklight_rollout.weights.manifest import PublishedWeights
from libs.model.tests.hf.tiny import tiny_policy
from services.rollout.tests.engine_contract import PLAIN, PROMPT, begin, ending, finish, sample
from services.rollout.tests.versions import verify, write_delta
from services.rollout.tests.vllm.publishing import publish_tensors

WISH = MemoryWish(max_batch=6, max_prompt_tokens=80, max_new_tokens=40, budget_bytes=2**30)
OPTIONS = HfOptions(dtype="float32", device="cpu", threads=1)


def publish(root: Path, policy: HfPolicy, version: int, *, kernels: str | None = None) -> PublishedWeights:
    tensors = {name: tensor.clone() for name, tensor in policy.published_tensors()}
    return publish_tensors(
        root, tensors, policy.config.to_published(), version, kernels=kernels or numerics()
    )


def start(weights: PublishedWeights, wish: MemoryWish = WISH) -> HfEngine:
    engine = hf_engine_factory(wish, OPTIONS)(weights)
    assert isinstance(engine, HfEngine)
    return engine


def test_tolerance_is_told_with_its_reason(tmp_path: Path) -> None:
    engine = start(publish(tmp_path, tiny_policy(), 0))
    assert not engine.numeric_mode.is_parity
    assert numerics() in engine.numeric_mode.reason
    assert engine.traits.exact_kernels == ("head",)
    assert (engine.limits.num_sequences, engine.limits.max_tokens) == (6, 120)


def test_a_delta_of_weights_is_read_as_a_whole_version(tmp_path: Path) -> None:
    old, new = tiny_policy("qwen_moe", 0), tiny_policy("qwen_moe", 1)
    base = publish(tmp_path, old, 0)
    tensors = [dict(policy.published_tensors()) for policy in (new, old)]
    delta = verify(write_delta(base, tensors[0], tensors[1], 1))
    engine = start(base)
    engine.stage(delta)
    engine.swap()
    assert engine.version == 1
    fresh = start(publish(tmp_path / "fresh", new, 1))
    assert engine.score(list(PROMPT)) == pytest.approx(fresh.score(list(PROMPT)), abs=1e-5)


def test_weights_of_another_release_or_architecture_are_refused(tmp_path: Path) -> None:
    weights = publish(tmp_path, tiny_policy(), 0)
    engine = start(weights)
    foreign = replace(weights, manifest=replace(weights.manifest, kernels="hf/transformers-5.0.0"))
    with pytest.raises(WeightsError, match="to the same release of transformers"):
        engine.stage(foreign)
    with pytest.raises(WeightsError, match="another architecture"):
        engine.stage(publish(tmp_path, tiny_policy("mistral"), 1))
    policy = tiny_policy()
    with torch.no_grad():
        policy.stack.norm.weight[3] = torch.nan
    with pytest.raises(WeightsError, match="not finite"):
        engine.stage(publish(tmp_path, policy, 2))
    with pytest.raises(WeightsError, match="call stage first"):
        engine.swap()


def test_vllm_gets_the_folder_that_transformers_would_write(tmp_path: Path) -> None:
    """The same versions, for `rollout.engine = "vllm"`: experts one by one, and the config as it came."""
    policy = tiny_policy("qwen_moe")
    policy.native.save_pretrained(tmp_path / "theirs")
    with make_model_folder(publish(tmp_path, policy, 0)) as name:
        config = json.loads((Path(name) / "config.json").read_text())
        (shard,) = shard_paths(name)
        found = load_file(shard)
    assert config == policy.config.to_published()
    expected = load_file(tmp_path / "theirs" / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[each], expected[each]) for each in found)


def test_memory_decides_how_many_rows_there_are(tmp_path: Path) -> None:
    weights = publish(tmp_path, tiny_policy(), 0)
    row = 64 * 4 * (120 + 256)  # values a token, bytes of each, places
    assert start(weights, replace(WISH, budget_bytes=3 * row + 1)).limits.num_sequences == 3
    with pytest.raises(ConfigError, match="FORKLIGHT_CACHE_MEMORY_BYTES"):
        start(weights, replace(WISH, budget_bytes=row - 1))


def test_sequences_wait_for_rows_and_long_prompts_for_a_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than fit, of two groups; then more prompt tokens than a step takes. Nobody is lost."""
    assert ROUND_TOKENS > 1000
    monkeypatch.setattr("forklight_rollout.adapters.hf.engine.ROUND_TOKENS", 100)
    engine = start(publish(tmp_path, tiny_policy(), 0), replace(WISH, max_batch=3))
    records = begin(engine, [SequenceStart(key=0, seed=seed) for seed in range(5)], ending(6))
    for length in (70, 60, 5):
        records |= begin(engine, [SequenceStart(key=0, seed=9)], ending(4), prompt_ids=PROMPT[:length])
    assert [len(each.ids) for each in finish(engine, records)] == [6] * 5 + [4] * 3
    alone = sample(engine, ending(4), draw=PLAIN, prompt_ids=PROMPT[:60], start=SequenceStart(key=0, seed=9))
    assert alone.ids == list(records.values())[6].ids


def test_a_run_file_with_a_model_of_transformers_chooses_this_engine(tmp_path: Path) -> None:
    run_file = RunFile.model_validate(
        {"model": {"hf": str(tmp_path)}, "sampling": {"max_new_tokens": 30}, "rollout": {"max_batch": 2}}
    )
    settings = RolloutSettings.model_construct(
        device="cpu", max_prompt_tokens=50, cache_memory_bytes=2**28, gpus_per_pod=0
    )
    engine = choose_engine(settings, run_file)(publish(tmp_path, tiny_policy(), 0))
    assert isinstance(engine, HfEngine)
    assert (engine.limits.num_sequences, engine.limits.max_tokens) == (2, 80)
