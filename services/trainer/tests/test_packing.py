"""Packing: nothing leaks between neighbours, and how samples are packed does not change the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from forklight.v1 import types_pb2
from forklight_core.errors import DataLossError, InvalidInputError
from forklight_core.runfile import RunFile
from forklight_model.model import HybridModel
from forklight_trainer.adapters.torch_plain import OptimizerSettings, TorchEngine
from forklight_trainer.batches.batch import TrainingBatch, expand_versions
from forklight_trainer.batches.fetch import fetch_batch
from forklight_trainer.batches.packing import pack_samples
from forklight_trainer.steps.step import accumulate, batch_advantages, step_settings

Maker = Any
ADAM = OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0)


def fetched(maker: Maker, step: int = 1) -> TrainingBatch:
    batch = fetch_batch(maker.batch(step), maker.blobs, "test-run").batch
    assert batch is not None
    return batch


def gradients(
    model: HybridModel, batch: TrainingBatch, pack_tokens: int
) -> tuple[float, dict[str, Tensor], int]:
    engine = TorchEngine(model, ADAM)
    advantages = batch_advantages(batch, equal_is_zero=False)
    packs = pack_samples(batch.samples, advantages, pack_tokens=pack_tokens)
    tally = accumulate(engine, packs, step_settings(RunFile()))
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return tally.loss, found, len(packs)


@pytest.mark.parametrize("pack_tokens", [32, 50, 97, 4096])
def test_step_when_packed_differently_has_the_same_loss_and_gradients(
    make_model: Callable[[int], HybridModel], maker: Maker, pack_tokens: int
) -> None:
    batch = fetched(maker)
    alone_loss, alone, num_alone = gradients(make_model(1).double(), batch, 31)
    loss, together, num_packs = gradients(make_model(1).double(), batch, pack_tokens)
    assert num_packs < num_alone or pack_tokens == 32
    assert loss == pytest.approx(alone_loss, rel=1e-5)
    assert alone.keys() == together.keys()
    for name, gradient in alone.items():
        assert torch.allclose(together[name], gradient, rtol=1e-4, atol=1e-8), name


def test_pack_when_built_places_every_response_token(maker: Maker) -> None:
    batch = fetched(maker)
    samples = batch.samples
    advantages = [float(place) for place in range(len(samples))]
    packs = pack_samples(samples, advantages, pack_tokens=64)
    seen: list[int] = []
    for pack in packs:
        assert len(pack.input_ids_T) == int(pack.cu_seqlens[-1]) <= 64
        for place, index in enumerate(pack.sample_indices):
            start, end = pack.cu_seqlens[place : place + 2].tolist()
            sample = samples[index]
            whole = np.concatenate([sample.prompt_ids, sample.response_ids])
            assert pack.input_ids_T[start:end].tolist() == whole.tolist()
            own = pack.sample_R == index
            assert pack.response_index_R[own].tolist() == list(range(start + len(sample.prompt_ids), end))
            assert pack.behaviour_R[own].tolist() == sample.behaviour_logprobs.tolist()
            assert set(pack.advantages_R[own].tolist()) == {float(index)}
            seen.append(index)
    assert sorted(seen) == list(range(len(samples)))


def test_pack_when_a_sample_is_too_long_names_it(maker: Maker) -> None:
    samples = fetched(maker).samples
    longest = max(samples, key=lambda sample: sample.num_tokens)
    capacity = longest.num_tokens - 1
    with pytest.raises(
        InvalidInputError,
        match=rf"{longest.sample_id} has {capacity + 1} tokens, a pack holds {capacity}.*pack_tokens",
    ):
        pack_samples(samples, [0.0] * len(samples), pack_tokens=capacity)


def test_expand_versions_when_spans_are_ordered_gives_each_token_its_version() -> None:
    spans = [types_pb2.VersionSpan(start=0, version=3), types_pb2.VersionSpan(start=2, version=5)]
    assert expand_versions(spans, 4, "s").tolist() == [3, 3, 5, 5]


@pytest.mark.parametrize("starts", [[], [1], [0, 3, 2], [0, 0], [0, 4]])
def test_expand_versions_when_spans_are_impossible_names_the_sample(starts: list[int]) -> None:
    spans = [types_pb2.VersionSpan(start=start, version=1) for start in starts]
    with pytest.raises(DataLossError, match="sample r/g1/s001 has version spans"):
        expand_versions(spans, 4, "r/g1/s001")
