"""Tokens that tools put in: fed to the model, and unknown to loss, normaliser, gate and figures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from forklight_core.blobs import BlobRef
from forklight_core.errors import InvalidInputError
from forklight_core.runfile import RunFile
from forklight_core.wire import pack_payload, unpack_payload
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel
from forklight_trainer.adapters.torch_plain import OptimizerSettings, TorchEngine
from forklight_trainer.batches.batch import TrainingBatch, TrainingSample
from forklight_trainer.batches.fetch import fetch_batch
from forklight_trainer.batches.packing import pack_samples
from forklight_trainer.loss.policy_loss import policy_loss
from forklight_trainer.steps.step import (
    PolicyState,
    accumulate,
    batch_advantages,
    check_batch,
    step_settings,
    train_step,
)

Maker = Any
ADAM = OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0)
SETTINGS = step_settings(RunFile.model_validate({"trainer": {"pack_tokens": 128}}))
CEILING = 5.0


@st.composite
def some_samples(draw: st.DrawFn) -> tuple[list[TrainingSample], list[float]]:
    chance = np.random.default_rng(draw(st.integers(0, 2**32)))
    samples = []
    for index in range(draw(st.integers(1, 4))):
        drawn = np.array(draw(st.lists(st.booleans(), min_size=1, max_size=30)))
        logprobs = np.where(drawn, -3 * chance.random(len(drawn)), 0.0).astype(np.float32)
        samples.append(
            TrainingSample(
                sample_id=f"r/g0/s{index}",
                prompt_ids=np.arange(draw(st.integers(1, 5)), dtype=np.int32),
                response_ids=np.arange(len(drawn), dtype=np.int32),
                behaviour_logprobs=logprobs,
                versions=np.zeros(len(drawn), dtype=np.int64),
                reward=0.0,
                drawn=drawn,
            )
        )
    return samples, chance.normal(size=len(samples)).tolist()


def transcribe(
    samples: list[TrainingSample], advantages: list[float], logprobs: list[list[float]]
) -> tuple[float, list[list[float]]]:
    """Equation 4 in plain float64, token by token, without those that were put in."""
    num_tokens = sum(int(mark) for sample in samples for mark in drawn_of(sample))
    loss, gradients = 0.0, []
    for sample, advantage, values in zip(samples, advantages, logprobs, strict=True):
        row = []
        for value, behaviour, mark in zip(values, sample.behaviour_logprobs, drawn_of(sample), strict=True):
            weight = min(math.exp(value - float(behaviour)), CEILING)
            loss -= weight * advantage * value / num_tokens if mark else 0.0
            row.append(-weight * advantage / num_tokens if mark else 0.0)
        gradients.append(row)
    return loss, gradients


def drawn_of(sample: TrainingSample) -> list[bool]:
    return [True] * len(sample.response_ids) if sample.drawn is None else sample.drawn.tolist()


@given(found=some_samples(), pack_tokens=st.integers(40, 120), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_the_gradient_is_the_transcription_s_that_leaves_put_in_tokens_out(
    found: tuple[list[TrainingSample], list[float]], pack_tokens: int, seed: int
) -> None:
    samples, advantages = found
    if not any(sample.num_drawn for sample in samples):
        return
    generator = torch.Generator().manual_seed(seed)
    packs = pack_samples(samples, advantages, pack_tokens=pack_tokens)
    values: dict[int, list[float]] = {}
    gradients: dict[int, list[float]] = {}
    loss = 0.0
    for pack in packs:
        logprobs_T = -3 * torch.rand(len(pack.input_ids_T), generator=generator, dtype=torch.float64)
        logprobs_T.requires_grad_()
        parts = policy_loss(
            logprobs_T[pack.response_index_R],
            pack.behaviour_R.double(),
            pack.advantages_R.double(),
            settings=SETTINGS.loss,
            weights_R=pack.weights_R,
        )
        parts.loss.backward()  # type: ignore[no-untyped-call]
        loss += float(parts.loss.detach())
        assert logprobs_T.grad is not None
        for place, index in enumerate(pack.sample_indices):
            end = int(pack.cu_seqlens[place + 1])
            response = slice(end - len(samples[index].response_ids), end)
            values[index] = logprobs_T.detach()[response].tolist()
            gradients[index] = logprobs_T.grad[response].tolist()
        is_response = torch.zeros(len(logprobs_T), dtype=torch.bool)
        is_response[pack.response_index_R] = True
        assert not logprobs_T.grad[~is_response].any()
    rounded = [float(np.float32(advantage)) for advantage in advantages]
    expected_loss, expected = transcribe(samples, rounded, [values[i] for i in range(len(samples))])
    assert loss == pytest.approx(expected_loss, rel=1e-9, abs=1e-12)
    for index, row in enumerate(expected):
        assert gradients[index] == pytest.approx(row, rel=1e-9, abs=1e-15)


def with_put_in(maker: Maker, *, behaviour: float = 0.0) -> TrainingBatch:
    """A batch in which tools put in tokens 2 to 4 of every response; all of it went over the wire."""
    message = maker.batch(1)
    for group in message.groups:
        for sample in group.samples:
            arrays = unpack_payload(maker.blobs.get(sample.trajectory.payload.id))
            drawn = np.ones(len(arrays.response_ids), dtype=np.uint8)
            drawn[2:5] = 0
            logprobs = np.where(drawn == 1, arrays.logprobs, np.float32(behaviour))
            changed = dataclasses.replace(arrays, drawn=drawn, logprobs=logprobs)
            reference: BlobRef = maker.blobs.put(pack_payload(changed))
            sample.trajectory.payload.id = reference.id
    batch = fetch_batch(message, maker.blobs, "test-run").batch
    assert batch is not None
    return batch


def gradients_of(model: HybridModel, batch: TrainingBatch) -> tuple[float, dict[str, Tensor]]:
    advantages = batch_advantages(batch, equal_is_zero=False)
    packs = pack_samples(batch.samples, advantages, pack_tokens=128)
    tally = accumulate(TorchEngine(model, ADAM), packs, SETTINGS)
    return tally.loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_model_learns_what_the_equation_says_of_the_drawn_tokens(
    make_model: Callable[[int], HybridModel], maker: Maker
) -> None:
    batch, model, reference = with_put_in(maker), make_model(1).double(), make_model(1).double()
    advantages = batch_advantages(batch, equal_is_zero=False)
    num_tokens = sum(sum(drawn_of(sample)) for sample in batch.samples)
    total = torch.zeros((), dtype=torch.float64)
    for sample, advantage in zip(batch.samples, advantages, strict=True):
        ids = torch.from_numpy(np.concatenate([sample.prompt_ids, sample.response_ids]).astype(np.int64))
        ends = torch.tensor([0, len(ids)], dtype=torch.int32)
        logprobs_R = token_logprobs(reference, ids, ends, 1.0).logprobs_T[len(sample.prompt_ids) :].double()
        for place, mark in enumerate(drawn_of(sample)):
            if mark:
                ratio = math.exp(float(logprobs_R[place].detach()) - float(sample.behaviour_logprobs[place]))
                total = total - min(ratio, CEILING) * advantage * logprobs_R[place] / num_tokens
    total.backward()  # type: ignore[no-untyped-call]
    loss, found = gradients_of(model, batch)
    assert loss == pytest.approx(float(total.detach()), rel=1e-4)
    for name, parameter in reference.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(found[name], parameter.grad, rtol=1e-3, atol=1e-7), name


def test_what_stands_beside_put_in_tokens_changes_no_bit(
    make_model: Callable[[int], HybridModel], maker: Maker
) -> None:
    loss, found = gradients_of(make_model(1), with_put_in(maker))
    poisoned_loss, poisoned = gradients_of(make_model(1), with_put_in(maker, behaviour=-9.0))
    assert loss == poisoned_loss
    assert all(torch.equal(poisoned[name], gradient) for name, gradient in found.items())


def test_gate_and_figures_know_only_drawn_tokens(
    make_model: Callable[[int], HybridModel], maker: Maker
) -> None:
    batch = with_put_in(maker, behaviour=-9.0)
    model, num_responses = make_model(0), len(batch.samples)
    policy = PolicyState(
        version=0, is_published=True, contract=batch.samples[0].contract, find_version=lambda version: None
    )
    outcome = train_step(TorchEngine(model, ADAM), batch, SETTINGS, policy)
    num_drawn = sum(len(sample.response_ids) - 3 for sample in batch.samples)
    assert (outcome.batch.num_tokens, outcome.batch.num_put_in) == (num_drawn, 3 * num_responses)
    assert outcome.batch.length_mean == pytest.approx((num_drawn + 3 * num_responses) / num_responses)
    assert outcome.parity.num_tokens == num_drawn
    assert outcome.parity.correlation > 0.9999
    assert outcome.tokens.ratio_max == pytest.approx(1.0, abs=1e-3)
    assert len(outcome.advantages) == num_responses


def test_a_batch_of_which_nothing_was_drawn_is_refused(maker: Maker) -> None:
    batch = with_put_in(maker)
    nothing = [
        dataclasses.replace(sample, drawn=np.zeros(len(sample.response_ids), dtype=np.bool_))
        for sample in batch.samples
    ]
    group = dataclasses.replace(batch.groups[0], samples=tuple(nothing))
    with pytest.raises(InvalidInputError, match="the policy drew"):
        check_batch(dataclasses.replace(batch, groups=(group,)), 103, batch.samples[0].contract)
