"""What is wrong with a batch, with the weights or with their gradients has a name of its own, and leaves
weights and optimizer as they were, bit for bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from forklight_core.errors import ForklightError, InvalidInputError, ParityError, PreconditionError
from forklight_core.runfile import RunFile
from forklight_model.model import HybridModel
from forklight_trainer.adapters.torch_plain import OptimizerSettings, TorchEngine
from forklight_trainer.batches.batch import TrainingBatch, TrainingGroup, TrainingSample
from forklight_trainer.batches.fetch import fetch_batch
from forklight_trainer.steps.step import PolicyState, StepSettings, step_settings, train_step
from services.trainer.tests.conftest import SampleMaker, tiny_model

Maker = Any
Spoil = Callable[[TrainingBatch], TrainingBatch]
ADAM = OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0)


def settings_of(**recipe: object) -> StepSettings:
    trainer = {"learning_rate": 1e-3, "pack_tokens": 128}
    sampling = {"max_new_tokens": 64}
    return step_settings(RunFile.model_validate({"trainer": trainer, "recipe": recipe, "sampling": sampling}))


SETTINGS = settings_of()


def fetched(maker: Maker, step: int) -> TrainingBatch:
    batch = fetch_batch(maker.batch(step), maker.blobs, "test-run").batch
    assert batch is not None
    return batch


def policy(batch: TrainingBatch) -> PolicyState:
    return PolicyState(
        version=0,
        is_published=False,
        contract=batch.samples[0].contract if batch.samples else "",
        find_version=lambda version: None,
    )


def trained_engine(model: HybridModel, maker: Maker, dtype: torch.dtype = torch.float32) -> TorchEngine:
    """With moments in its optimizer, so that a touch would show."""
    engine, batch = TorchEngine(model, ADAM, dtype=dtype), fetched(maker, 1)
    train_step(engine, batch, SETTINGS, policy(batch))
    return engine


def state_of(engine: TorchEngine) -> dict[str, Tensor]:
    """The bytes of every tensor that a step may change."""
    found = {f"master.{name}": tensor for name, tensor in engine._master.state_dict().items()}
    found |= {f"computed.{name}": tensor for name, tensor in engine._compute.state_dict().items()}
    for name, parameter in engine._master.named_parameters():
        for key, tensor in engine._optimizer.state[parameter].items():
            found[f"{key}.{name}"] = tensor
    return {name: tensor.clone().reshape(-1).view(torch.uint8) for name, tensor in found.items()}


def refuse(
    engine: TorchEngine,
    batch: TrainingBatch,
    error: type[ForklightError],
    reason: str,
    settings: StepSettings = SETTINGS,
) -> None:
    """The step raises this, and nothing has changed."""
    before = state_of(engine)
    with pytest.raises(error, match=reason):
        train_step(engine, batch, settings, policy(batch))
    after = state_of(engine)
    assert before.keys() == after.keys()
    assert any(name.startswith("exp_avg_sq.") for name in after)
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    assert all(parameter.grad is None for parameter in engine._master.parameters())
    assert all(parameter.grad is None for parameter in engine._compute.parameters())


def changed(batch: TrainingBatch, place: int, **changes: object) -> TrainingBatch:
    """The batch with one sample of its second group changed."""
    group = batch.groups[1]
    samples = list(group.samples)
    samples[place] = dataclasses.replace(samples[place], **changes)  # type: ignore[arg-type]
    return with_group(batch, dataclasses.replace(group, samples=tuple(samples)))


def with_group(batch: TrainingBatch, group: TrainingGroup) -> TrainingBatch:
    return dataclasses.replace(batch, groups=(batch.groups[0], group, batch.groups[2]))


def one(name: str, change: Callable[[TrainingSample], object]) -> Spoil:
    """Changes one field of one sample."""
    return lambda batch: changed(batch, 2, **{name: change(batch.groups[1].samples[2])})


def one_value(name: str, value: float) -> Spoil:
    """Changes one number of an array of one sample."""

    def change(sample: TrainingSample) -> object:
        values = getattr(sample, name).copy()
        values[3] = value
        return values

    return one(name, change)


def drawn_nowhere(batch: TrainingBatch) -> TrainingBatch:
    groups = [
        dataclasses.replace(
            group,
            samples=tuple(
                dataclasses.replace(sample, drawn=np.zeros(len(sample.response_ids), dtype=np.bool_))
                for sample in group.samples
            ),
        )
        for group in batch.groups
    ]
    return dataclasses.replace(batch, groups=tuple(groups))


def longer(num_tokens: int) -> Spoil:
    """One response of so many tokens."""

    def change(sample: TrainingSample) -> dict[str, object]:
        return {
            "response_ids": np.full(num_tokens, 9, dtype=np.int32),
            "behaviour_logprobs": np.full(num_tokens, -1.0, dtype=np.float32),
            "versions": np.zeros(num_tokens, dtype=np.int64),
        }

    return lambda batch: changed(batch, 2, **change(batch.groups[1].samples[2]))


NAME = "test-run/g.*s002"
SPOILED: dict[str, tuple[Spoil, type[ForklightError], str]] = {
    "no group": (lambda b: dataclasses.replace(b, groups=()), InvalidInputError, "0 groups and no response"),
    "empty group": (
        lambda b: with_group(b, dataclasses.replace(b.groups[1], samples=())),
        InvalidInputError,
        "group test-run/g.* is empty",
    ),
    "group of one": (
        lambda b: with_group(b, dataclasses.replace(b.groups[1], samples=b.groups[1].samples[:1])),
        InvalidInputError,
        "group test-run/g.* has one sample",
    ),
    "equal rewards": (
        lambda b: with_group(
            b, dataclasses.replace(b.groups[1], samples=(b.groups[1].samples[0], b.groups[1].samples[2]))
        ),
        InvalidInputError,
        "group test-run/g.*all 2 rewards are 0.0.*dynamic_sampling",
    ),
    "NaN reward": (one("reward", lambda s: float("nan")), InvalidInputError, "group .* reward of nan"),
    "infinite reward": (one("reward", lambda s: float("-inf")), InvalidInputError, "group .* reward of -inf"),
    "absurd reward": (one("reward", lambda s: 1e200), InvalidInputError, r"group .* reward of 1e\+200"),
    "NaN log-prob": (one_value("behaviour_logprobs", np.nan), InvalidInputError, f"{NAME}.*NaN, infinite"),
    "infinite log-prob": (one_value("behaviour_logprobs", -np.inf), InvalidInputError, f"{NAME}.*NaN, inf"),
    "log-prob above 0": (one_value("behaviour_logprobs", 0.5), InvalidInputError, f"{NAME}.*above 0"),
    "token beyond the vocabulary": (one_value("response_ids", 103), InvalidInputError, f"{NAME}.*0 to 102"),
    "negative token": (one_value("response_ids", -1), InvalidInputError, f"{NAME}.*outside 0 to 102"),
    "unknown prompt token": (
        one("prompt_ids", lambda s: np.array([5, 999], dtype=np.int32)),
        InvalidInputError,
        f"{NAME}.*outside 0 to 102",
    ),
    "empty prompt": (
        one("prompt_ids", lambda s: np.zeros(0, dtype=np.int32)),
        InvalidInputError,
        f"{NAME}.*empty prompt",
    ),
    "nothing drawn": (drawn_nowhere, InvalidInputError, "no response token that the policy drew"),
    "other contract": (one("contract", lambda s: "other"), ParityError, f"{NAME}.*numeric contract 'other'"),
    "longer than any window": (
        longer(65),
        InvalidInputError,
        f"{NAME}.* response of 65 tokens, and the largest window of this run is 64",
    ),
    "longer than a pack": (
        one("prompt_ids", lambda s: np.full(200, 9, dtype=np.int32)),
        InvalidInputError,
        f"{NAME}.* tokens, a pack holds 128",
    ),
}


@pytest.fixture(scope="module")
def trained() -> tuple[TorchEngine, TrainingBatch]:
    """One engine for all of them, since none may change it, and the batch that each of them spoils."""
    maker = SampleMaker()
    return trained_engine(tiny_model(0), maker), fetched(maker, 2)


@pytest.mark.parametrize("what", SPOILED)
def test_train_step_when_a_batch_is_spoiled_names_it_and_changes_nothing(
    trained: tuple[TorchEngine, TrainingBatch], what: str
) -> None:
    spoil, error, reason = SPOILED[what]
    engine, batch = trained
    refuse(engine, spoil(batch), error, reason)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_train_step_when_a_good_batch_follows_a_bad_one_learns_as_if_it_had_not_been(
    make_model: Callable[[int], HybridModel], maker: Maker, dtype: torch.dtype
) -> None:
    good = fetched(maker, 2)
    engines = [trained_engine(make_model(0), maker, dtype) for _ in range(2)]
    refuse(engines[0], SPOILED["NaN reward"][0](good), InvalidInputError, "reward of nan")
    with spoiled_gradients(engines[0], float("nan")):
        refuse(engines[0], good, PreconditionError, "gradient norm is nan")
    states = []
    for engine in engines:
        train_step(engine, good, SETTINGS, policy(good))
        states.append(state_of(engine))
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@contextmanager
def spoiled_gradients(engine: TorchEngine, value: float) -> Iterator[None]:
    """One element of one parameter's gradient becomes this."""

    def spoil(changed: Tensor) -> None:
        if changed.grad is not None:
            changed.grad.view(-1)[5] = value

    parameter = engine._compute.lm_head.weight
    hook = parameter.register_post_accumulate_grad_hook(spoil)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_train_step_when_one_gradient_is_not_finite_names_it_and_changes_nothing(
    make_model: Callable[[int], HybridModel], maker: Maker, dtype: torch.dtype, value: float
) -> None:
    engine = trained_engine(make_model(0), maker, dtype)
    problem = f"gradient norm is {value}.*optimizer was not touched"
    with spoiled_gradients(engine, value):
        refuse(engine, fetched(maker, 2), PreconditionError, problem)


def test_train_step_when_a_weight_is_nan_names_it_and_changes_nothing(
    make_model: Callable[[int], HybridModel], maker: Maker
) -> None:
    engine = trained_engine(make_model(0), maker)
    with torch.no_grad():
        engine._master.model.norm.weight[0] = float("nan")
    refuse(engine, fetched(maker, 2), PreconditionError, "of .* log-probs of the trainer are NaN or infinite")


def test_train_step_when_the_mask_drops_every_token_names_it_and_changes_nothing(
    make_model: Callable[[int], HybridModel], maker: Maker
) -> None:
    engine, batch = trained_engine(make_model(0), maker), fetched(maker, 2)
    groups = [
        dataclasses.replace(group, samples=tuple(pushed_outwards(sample) for sample in group.samples))
        for group in batch.groups
    ]
    settings = settings_of(algorithm="grpo", mask_eps_low=1e-9, mask_eps_high=1e-9)
    pushed = dataclasses.replace(batch, groups=tuple(groups))
    refuse(engine, pushed, PreconditionError, "unified mask drops all .* tokens", settings)


def pushed_outwards(sample: TrainingSample) -> TrainingSample:
    """Ratios far above 1 for rewarded samples, far below 1 for the others."""
    shift = np.float32(-0.5 if sample.reward > 0 else 0.5)
    logprobs = np.minimum(sample.behaviour_logprobs + shift, 0).astype(np.float32)
    return dataclasses.replace(sample, behaviour_logprobs=logprobs)


def test_train_step_when_a_window_moved_back_learns_from_what_the_longer_one_opened(
    make_model: Callable[[int], HybridModel], maker: Maker
) -> None:
    """A response within the run's largest window is welcome whatever the window is by now."""
    run_file = RunFile.model_validate(
        {"length": {"windows": [4, 64]}, "trainer": {"pack_tokens": 128, "learning_rate": 1e-3}}
    )
    batch, engine = fetched(maker, 1), TorchEngine(make_model(0), ADAM)
    assert max(len(sample.response_ids) for sample in batch.samples) > 4
    narrow = dataclasses.replace(policy(batch), window=4)
    assert train_step(engine, batch, step_settings(run_file), narrow).grad_norm > 0
    with pytest.raises(InvalidInputError, match="response of 65 tokens, and the largest window"):
        train_step(engine, longer(65)(batch), step_settings(run_file), narrow)
