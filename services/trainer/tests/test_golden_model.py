"""Real models and engines: what `train_step` teaches is the paper's gradient, and sixteen updates from one
version stay on that version's log-probs.

Tolerance of the first: the engine's model computes in fp32 and the reference in float64; gradients agree to
1e-3 of themselves, or to 1e-6 where tokens cancel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from forklight_core.runfile import RunFile
from forklight_model.logprobs import TokenStats, token_logprobs
from forklight_model.model import HybridModel
from forklight_trainer.adapters.torch_plain import OptimizerSettings, TorchEngine
from forklight_trainer.batches.batch import TrainingBatch
from forklight_trainer.batches.fetch import fetch_batch
from forklight_trainer.batches.packing import Pack
from forklight_trainer.loss.objective import Objective, PackOutcome
from forklight_trainer.steps.step import PolicyState, StepOutcome, step_settings, train_step
from services.trainer.tests import transcription as published
from services.trainer.tests.transcription import Response

Maker = Any
ADAM = OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0)
UPDATES_PER_VERSION = 16
EPS_HIGH = 0.25


class WatchedEngine(TorchEngine):
    """A real engine that remembers what it was asked and what came of it."""

    def __init__(self, model: HybridModel) -> None:
        super().__init__(model, ADAM)
        self.packs: list[Pack] = []
        self.outcomes: list[PackOutcome] = []
        self.gradients: dict[str, Tensor] = {}
        self.num_passes = 0
        self.model = model
        self._forward_hidden, model.forward_hidden = model.forward_hidden, self._count  # type: ignore[method-assign]

    def accumulate(self, packs: Sequence[Pack], objective: Objective) -> list[PackOutcome]:
        self.packs, self.outcomes = list(packs), super().accumulate(packs, objective)
        return self.outcomes

    def update(self, *, learning_rate: float, grad_clip: float) -> float:
        named = self.model.named_parameters()
        self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}
        return super().update(learning_rate=learning_rate, grad_clip=grad_clip)

    def score(self, pack: Pack, temperature: float) -> TokenStats:
        raise AssertionError("a step scores nothing again")

    def _count(self, *arguments: Any) -> Tensor:
        self.num_passes += 1
        return self._forward_hidden(*arguments)


def fetched(maker: Maker, step: int) -> TrainingBatch:
    batch = fetch_batch(maker.batch(step), maker.blobs, "test-run").batch
    assert batch is not None
    return batch


def learn(engine: TorchEngine, batch: TrainingBatch, version: int, **recipe: object) -> StepOutcome:
    trainer = {"learning_rate": 2e-3, "pack_tokens": 96, "updates_per_version": UPDATES_PER_VERSION}
    policy = PolicyState(
        version=version,
        is_published=False,
        contract=batch.samples[0].contract,
        find_version=lambda version: None,
    )
    settings = step_settings(RunFile.model_validate({"trainer": trainer, "recipe": recipe}))
    return train_step(engine, batch, settings, policy)


@pytest.mark.parametrize(
    ("normalization", "share"), [("token", 1.0), ("sample", 0.0), ("combined", 0.5), ("combined", 0.8)]
)
def test_train_step_when_compared_with_the_paper_gives_the_model_its_gradient(
    make_model: Callable[[int], HybridModel], maker: Maker, normalization: str, share: float
) -> None:
    batch, reference = fetched(maker, 1), make_model(1).double()
    rewarded = [
        dataclasses.replace(
            group,
            samples=tuple(
                dataclasses.replace(sample, reward=[0.0, 1.0, 0.25, 1.0][place])
                for place, sample in enumerate(group.samples)
            ),
        )
        for group in batch.groups
    ]
    batch = dataclasses.replace(batch, groups=tuple(rewarded))
    engine = WatchedEngine(make_model(1))
    recipe = {"normalization": normalization, "combined_token_share": share, "eps_high": EPS_HIGH}
    outcome = learn(engine, batch, 0, **recipe)
    responses = []
    for group in batch.groups:
        for sample, advantage in zip(group.samples, published.advantages(group.rewards), strict=True):
            ids = torch.from_numpy(np.concatenate([sample.prompt_ids, sample.response_ids]).astype(np.int64))
            ends = torch.tensor([0, len(ids)], dtype=torch.int32)
            logprobs = token_logprobs(reference, ids, ends, 1.0).logprobs_T[len(sample.prompt_ids) :].double()
            behaviour = torch.from_numpy(sample.behaviour_logprobs.astype(np.float64))
            responses.append(Response(logprobs=logprobs, behaviour=behaviour, advantage=advantage))
    loss = published.combined(responses, published.cispo(EPS_HIGH), share)
    loss.backward()  # type: ignore[no-untyped-call]
    assert outcome.tokens.loss == pytest.approx(float(loss.detach()), rel=1e-4)
    assert outcome.tokens.clip_share_high > 0.2
    for name, parameter in reference.named_parameters():
        if parameter.grad is not None:
            expected = parameter.grad.float()
            torch.testing.assert_close(engine.gradients[name], expected, rtol=1e-3, atol=1e-6, msg=name)


def test_updates_when_sixteen_follow_one_version_stay_on_what_that_version_sampled(
    make_model: Callable[[int], HybridModel], maker: Maker
) -> None:
    engine, drift, staleness, clipped = WatchedEngine(make_model(0)), [], [], 0
    for step in range(1, UPDATES_PER_VERSION + 3):
        batch = fetched(maker, step)
        num_passes = engine.num_passes
        outcome = learn(engine, batch, (step - 1) // UPDATES_PER_VERSION, eps_high=EPS_HIGH)
        assert engine.num_passes - num_passes == len(engine.packs), "old log-probs are never computed again"
        clipped += check_packs(engine, batch, outcome)
        ratios = torch.cat([each.ratio_R for each in engine.outcomes])
        drift.append(float((ratios - 1.0).abs().mean()))
        staleness.append((outcome.batch.staleness_mean, outcome.batch.staleness_max))
    assert drift[0] < 1e-5
    assert min(drift[1:]) > 1e-3 and drift[UPDATES_PER_VERSION - 1] > 3 * drift[1]
    assert clipped > 0
    assert staleness == [(0.0, 0)] * UPDATES_PER_VERSION + [(1.0, 1)] * 2


def check_packs(engine: WatchedEngine, batch: TrainingBatch, outcome: StepOutcome) -> int:
    """Log-probs are rollout's own bits, only weights above the ceiling are clipped, and to the ceiling; how
    many were."""
    loss, num_clipped = 0.0, 0
    for pack, found in zip(engine.packs, engine.outcomes, strict=True):
        for index in pack.sample_indices:
            recorded = batch.samples[index].behaviour_logprobs
            assert np.array_equal(pack.behaviour_R[pack.sample_R == index].numpy(), recorded)
        ratio = torch.exp(found.logprobs_R.double() - pack.behaviour_R.double())
        torch.testing.assert_close(found.ratio_R.double(), ratio, rtol=1e-5, atol=0.0)
        assert torch.equal(found.clipped_high_R, found.ratio_R > 1.0 + EPS_HIGH)
        assert not found.clipped_low_R.any() and found.keep_R.all()
        weight = ratio.clamp(max=1.0 + EPS_HIGH)
        loss -= float((weight * pack.advantages_R * found.logprobs_R).sum()) / outcome.batch.num_tokens
        num_clipped += int(found.clipped_high_R.sum())
    assert outcome.tokens.loss == pytest.approx(loss, rel=1e-4, abs=1e-6)
    assert outcome.tokens.clip_share_high == pytest.approx(num_clipped / outcome.batch.num_tokens)
    return num_clipped
