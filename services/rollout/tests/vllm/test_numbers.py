"""What vLLM delivers through the plugin, against the trainer's own forward pass and the published model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from forklight_core.errors import InvalidInputError, UnavailableError, WeightsError
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel
from forklight_model.parity import check_numeric_mode
from forklight_model.sizes import SIZES
from forklight_rollout.adapters.vllm import VllmEngine, VllmOptions, vllm_engine_factory
from forklight_rollout.ports import FinishReason, SequenceStart
from forklight_rollout.weights.manifest import PublishedWeights
from services.rollout.tests.engine_contract import PROMPT, begin, ending, finish, sample, step_until
from services.rollout.tests.vllm.conftest import CACHE_BYTES
from services.rollout.tests.vllm.publishing import nano_model, publish_tensors

pytestmark = pytest.mark.vllm

GOLDEN = Path(__file__).resolve().parents[5] / "shared" / "golden" / "minimax-m1-tiny"
BOUND = 5e-5
"""Between log-probs of two fp32 passes that cut and batch the same tokens in other ways."""


def trainer_logprobs(model: HybridModel, ids: list[int]) -> list[float]:
    """Of the tokens after the first."""
    cu_seqlens = torch.tensor([0, len(ids)], dtype=torch.int32)
    logprobs: list[float] = token_logprobs(model, torch.tensor(ids), cu_seqlens).logprobs_T[1:].tolist()
    return logprobs


def use_version(engine: VllmEngine, weights: PublishedWeights) -> None:
    if engine.version != weights.version:
        engine.stage(weights)
        engine.swap()


@pytest.mark.parametrize("version", [0, 1])
def test_logprobs_are_the_trainers_for_the_same_tokens(
    engine: VllmEngine,
    models: dict[int, HybridModel],
    published: dict[int, PublishedWeights],
    version: int,
) -> None:
    """Prompts in pieces of 48, decode over chunks that open and close, after a swap as after a fresh load."""
    use_version(engine, published[version])
    for prompt_ids in (PROMPT, PROMPT[:1], PROMPT[:64]):
        starts = [SequenceStart(key=0, seed=seed) for seed in (1, 2, 3)]
        for sampled in finish(engine, begin(engine, starts, ending(100), prompt_ids=prompt_ids)):
            ids = [*prompt_ids, *sampled.ids]
            expected = trainer_logprobs(models[version], ids)[-100:]
            assert sampled.raw_logprobs == pytest.approx(expected, abs=BOUND)
            assert list(engine.score(ids)) == pytest.approx(trainer_logprobs(models[version], ids), abs=BOUND)


def test_a_sequence_that_lives_through_a_swap_goes_on_as_the_new_weights_would(
    engine: VllmEngine, models: dict[int, HybridModel], published: dict[int, PublishedWeights]
) -> None:
    """What it remembers is computed anew: no key, value or state of the old weights is left."""
    use_version(engine, published[0])
    records = begin(engine, [SequenceStart(key=0, seed=seed) for seed in (1, 2)], ending(90))
    step_until(engine, records, lambda: all(len(each.ids) >= 20 for each in records.values()))
    use_version(engine, published[1])
    for sampled in finish(engine, records):
        cut = sampled.versions.count(0)
        assert 20 <= cut < 90
        ids = [*PROMPT, *sampled.ids]
        old, new = (trainer_logprobs(models[version], ids)[-90:] for version in (0, 1))
        assert sampled.raw_logprobs == pytest.approx(old[:cut] + new[cut:], abs=BOUND)


def test_what_was_delivered_before_a_retirement_is_what_the_whole_begins_with(engine: VllmEngine) -> None:
    whole = sample(engine, ending(60))
    records = begin(engine, [SequenceStart(key=0, seed=5)], ending(60))
    ((key, record),) = records.items()
    step_until(engine, records, lambda: len(record.ids) >= 10)
    engine.retire([key])
    partial = SequenceStart(key=0, seed=5, prefix_ids=tuple(record.ids))
    assert record.ids + sample(engine, ending(60), start=partial).ids == whole.ids


def test_seeds_of_all_64_bits_draw(engine: VllmEngine) -> None:
    (low, high) = (
        sample(engine, ending(10), start=SequenceStart(key=0, seed=seed)) for seed in (2**63 - 1, 2**64 - 1)
    )
    assert low.ids != high.ids


def test_the_longest_sequence_that_is_promised_fits(engine: VllmEngine) -> None:
    most = engine.limits.max_tokens
    sampled = sample(engine, ending(most - len(PROMPT)))
    assert (len(PROMPT) + len(sampled.ids), sampled.reasons[-1]) == (most, FinishReason.LENGTH)
    assert len(engine.score([*PROMPT, *sampled.ids])) == most - 1
    with pytest.raises(InvalidInputError, match=f"2 to {most}"):
        engine.score([1] * (most + 1))
    with pytest.raises(InvalidInputError, match="nothing is left to draw"):
        begin(engine, [SequenceStart(key=0, seed=1)], ending(5), prompt_ids=(1,) * most)
    with pytest.raises(InvalidInputError, match="nothing is left to draw"):
        begin(engine, [SequenceStart(key=0, seed=1, prefix_ids=(1,) * 5)], ending(5))


def test_weights_of_another_model_are_refused(engine: VllmEngine, tmp_path: Path) -> None:
    config = SIZES["nano"].to_published() | {"num_experts_per_tok": 1}
    other = publish_tensors(tmp_path, {"a": torch.zeros(2)}, config, 7)
    with pytest.raises(WeightsError, match="another architecture"):
        engine.stage(other)
    incomplete = dict(nano_model(3).state_dict())
    del incomplete["model.norm.weight"]
    cut = publish_tensors(
        tmp_path,
        {name: tensor.contiguous().clone() for name, tensor in incomplete.items()},
        SIZES["nano"].to_published(),
        8,
    )
    with pytest.raises(WeightsError, match="other names or shapes"):
        engine.stage(cut)


def test_it_says_what_it_computes_with(engine: VllmEngine) -> None:
    assert engine.traits.exact_kernels == ("lightning", "softmax", "moe", "head")
    # torch's own products on a CPU are not invariant; our kernels are, where a GPU keeps the contract
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert engine.traits.is_batch_invariant is check_numeric_mode(device, torch.float32).is_parity
    assert not engine.numeric_mode.is_parity
    assert "vLLM cuts prompts" in engine.numeric_mode.reason
    assert engine.model_s > 0


def publish_golden(root: Path, version: int) -> PublishedWeights:
    if not GOLDEN.exists():
        pytest.skip(f"no golden data: {GOLDEN.name} is not beside the repository")
    config = json.loads((GOLDEN / "config.json").read_text())
    return publish_tensors(root, load_file(GOLDEN / "model.safetensors"), config, version)


@pytest.fixture(scope="module")
def golden_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    options = VllmOptions(
        dtype="float32", num_sequences=2, max_tokens=700, cache_bytes=CACHE_BYTES, step_tokens=100
    )
    made = vllm_engine_factory(options)(publish_golden(tmp_path_factory.mktemp("golden"), 1))
    assert isinstance(made, VllmEngine)
    yield made
    made.close()


def test_scores_are_those_of_the_published_model(golden_engine: VllmEngine) -> None:
    """Six hundred tokens in pieces of a hundred, against what the published code computed in one pass."""
    golden = load_file(GOLDEN / "golden.safetensors")
    for ids_T, expected_T in zip(golden["input_ids"], golden["next_token_logprobs"], strict=True):
        scores = list(golden_engine.score(ids_T.tolist()))
        assert scores == pytest.approx(expected_T.tolist(), abs=BOUND)


def test_a_swap_that_fails_in_the_middle_ends_the_engine(golden_engine: VllmEngine, tmp_path: Path) -> None:
    """The last test of this file: some weights may be new and others old, so nothing is drawn from them."""
    weights = publish_golden(tmp_path, 2)
    golden_engine.stage(weights)
    for shard in weights.manifest.files:
        (weights.folder / shard.file).unlink()
    with pytest.raises(UnavailableError, match="update_weights"):
        golden_engine.swap()
    with pytest.raises(UnavailableError, match="update_weights"):
        golden_engine.step()
    with pytest.raises(UnavailableError, match="update_weights"):
        golden_engine.score([1, 2])
