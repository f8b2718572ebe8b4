"""One update: what it measures, and that a refusal for parity leaves the optimizer alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from forklight_core.errors import ParityError
from forklight_core.runfile import RunFile
from forklight_model.model import HybridModel
from forklight_model.tokenizer import build_character_tokenizer
from forklight_trainer.adapters.torch_plain import OptimizerSettings, TorchEngine
from forklight_trainer.batches.batch import TrainingBatch
from forklight_trainer.batches.fetch import fetch_batch
from forklight_trainer.batches.packing import pack_samples
from forklight_trainer.publishing.versions import WeightsStore
from forklight_trainer.steps.step import (
    PolicyState,
    step_settings,
    train_step,
)

Maker = Any
ADAM = OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0)
SETTINGS = step_settings(RunFile.model_validate({"trainer": {"learning_rate": 1e-3, "pack_tokens": 128}}))


def fetched(maker: Maker, step: int = 1) -> TrainingBatch:
    batch = fetch_batch(maker.batch(step), maker.blobs, "test-run").batch
    assert batch is not None
    return batch


def changed_sample(batch: TrainingBatch, **changes: object) -> TrainingBatch:
    """The batch with its first sample changed."""
    first = batch.groups[0]
    sample = dataclasses.replace(first.samples[0], **changes)  # type: ignore[arg-type]
    group = dataclasses.replace(first, samples=(sample, *first.samples[1:]))
    return dataclasses.replace(batch, groups=(group, *batch.groups[1:]))


def policy(
    batch: TrainingBatch, *, version: int = 0, is_published: bool = True, found: Path | None = None
) -> PolicyState:
    contract = batch.samples[0].contract if batch.groups else ""
    return PolicyState(
        version=version, is_published=is_published, contract=contract, find_version=lambda version: found
    )


def weights_of(model: HybridModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_train_step_when_weights_made_the_samples_agrees_perfectly_and_updates(
    make_model: Callable[[int], HybridModel], maker: Maker
) -> None:
    model, batch = make_model(0), fetched(maker)
    before = weights_of(model)
    outcome = train_step(TorchEngine(model, ADAM), batch, SETTINGS, policy(batch))
    assert outcome.parity.version == 0
    assert outcome.parity.correlation > 0.99999
    assert outcome.parity.mean_kl < 1e-9
    assert outcome.tokens.ratio_max == pytest.approx(1.0, abs=1e-3)
    assert outcome.tokens.clip_share_high == 0.0
    assert outcome.grad_norm > 0
    assert any(not torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert outcome.batch.num_tokens == sum(len(sample.response_ids) for sample in batch.samples)
    assert outcome.advantages[:4] == pytest.approx((-1.0, 1.0, -1.0, 1.0))


def as_the_engine_scores(batch: TrainingBatch, model: HybridModel) -> TrainingBatch:
    """Log-probs of the very packs that a step makes: computed again, every bit is equal on a CPU too."""
    engine, scored = TorchEngine(model, ADAM), {}
    for pack in pack_samples(batch.samples, [0.0] * len(batch.samples), pack_tokens=SETTINGS.pack_tokens):
        logprobs_R = engine.score(pack, 1.0).logprobs_T[pack.response_index_R]
        for index in pack.sample_indices:
            scored[batch.samples[index].sample_id] = logprobs_R[pack.sample_R == index].numpy()
    groups = tuple(
        dataclasses.replace(
            group,
            samples=tuple(
                dataclasses.replace(sample, behaviour_logprobs=scored[sample.sample_id])
                for sample in group.samples
            ),
        )
        for group in batch.groups
    )
    return dataclasses.replace(batch, groups=groups)


def test_train_step_when_bits_must_be_equal_refuses_one_that_is_not(
    make_model: Callable[[int], HybridModel], maker: Maker
) -> None:
    run_file = RunFile.model_validate({"trainer": {"pack_tokens": 128}, "parity": {"require_equal": True}})
    batch, model = as_the_engine_scores(fetched(maker), make_model(0)), make_model(0)
    strict = step_settings(run_file, is_parity_mode=True)
    outcome = train_step(TorchEngine(make_model(0), ADAM), batch, strict, policy(batch))
    assert (outcome.parity.num_unequal, outcome.parity.version) == (0, 0)
    logprobs = batch.samples[0].behaviour_logprobs.copy()
    logprobs[2] = np.nextafter(logprobs[2], np.float32(-9))
    spoiled, before = changed_sample(batch, behaviour_logprobs=logprobs), weights_of(model)
    with pytest.raises(ParityError, match=r"1 of \d+ tokens that version 0 sampled .* differ in bits"):
        train_step(TorchEngine(model, ADAM), spoiled, strict, policy(spoiled))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    tolerant = step_settings(run_file, is_parity_mode=False)
    outcome = train_step(TorchEngine(model, ADAM), spoiled, tolerant, policy(spoiled))
    assert outcome.parity.num_unequal == 1


def test_train_step_when_temperature_is_not_1_compares_at_that_temperature(
    make_model: Callable[[int], HybridModel], maker: Maker
) -> None:
    maker.temperature = 0.7
    batch = fetched(maker)
    matching = dataclasses.replace(SETTINGS, temperature=0.7)
    outcome = train_step(TorchEngine(make_model(0), ADAM), batch, matching, policy(batch))
    assert outcome.parity.correlation > 0.99999
    assert outcome.tokens.ratio_mean == pytest.approx(1.0, abs=1e-4)


def test_train_step_when_other_weights_made_the_samples_raises_parity_error(
    make_model: Callable[[int], HybridModel], maker: Maker
) -> None:
    batch = fetched(maker)
    model = make_model(9)
    before = weights_of(model)
    with pytest.raises(ParityError, match=r"version 0 sampled: correlation .*min_correlation = 0.99"):
        train_step(TorchEngine(model, ADAM), batch, SETTINGS, policy(batch))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("version", "is_published"), [(1, True), (0, False)])
def test_train_step_when_samples_are_off_policy_reports_parity_without_gating(
    make_model: Callable[[int], HybridModel], maker: Maker, version: int, is_published: bool
) -> None:
    batch = fetched(maker)
    state = policy(batch, version=version, is_published=is_published)
    outcome = train_step(TorchEngine(make_model(9), ADAM), batch, SETTINGS, state)
    assert outcome.parity.version is None
    assert outcome.parity.num_tokens == outcome.batch.num_tokens
    assert outcome.parity.correlation < 0.99
    assert outcome.batch.staleness_max == version


def publish(folder: Path, model: HybridModel) -> Path:
    """A version on disk."""
    store = WeightsStore(
        folder=folder, run_id="run", tokenizer=build_character_tokenizer(), dtype="float32", contract="c0"
    )
    store.publish(TorchEngine(model, ADAM), version=0, step=0)
    return store.version_folder(0)


def test_train_step_when_samples_are_off_policy_gates_on_the_version_on_disk(
    make_model: Callable[[int], HybridModel], maker: Maker, tmp_path: Path
) -> None:
    v0, wrong = (publish(tmp_path / name, make_model(seed)) for name, seed in (("v0", 0), ("wrong", 3)))
    batch, engine = fetched(maker), TorchEngine(make_model(9), ADAM)
    outcome = train_step(engine, batch, SETTINGS, policy(batch, version=1, found=v0))
    assert outcome.parity.version == 0
    assert outcome.parity.correlation > 0.99999
    assert 32 <= outcome.parity.num_tokens <= 128
    with pytest.raises(ParityError, match="that version 0 sampled"):
        train_step(engine, batch, SETTINGS, policy(batch, version=1, found=wrong))
    torn = train_step(engine, batch, SETTINGS, policy(batch, version=1, found=tmp_path / "missing"))
    assert torn.parity.version is None


def test_engine_when_bf16_keeps_fp32_master_weights(
    make_model: Callable[[int], HybridModel], maker: Maker
) -> None:
    master, batch = make_model(0), fetched(maker)
    engine = TorchEngine(master, ADAM, dtype=torch.bfloat16)
    tiny = step_settings(RunFile.model_validate({"trainer": {"learning_rate": 1e-6, "pack_tokens": 128}}))
    before = weights_of(master)
    outcome = train_step(engine, batch, tiny, policy(batch, is_published=False))
    moved = max(float((before[n] - t).abs().max()) for n, t in master.state_dict().items())
    assert 0 < moved < 2e-6  # far below what bf16 weights near 0.1 could show
    assert outcome.parity.correlation > 0.99
