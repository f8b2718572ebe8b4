"""Whole steps, from rewards to the gradient of every token, against the papers' objectives in float64.

Tolerance: advantages travel to the loss in fp32, so a gradient may be off by 6e-8 of itself; 2e-7 is asked.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from forklight_core.runfile.schema import RecipeSection
from forklight_trainer.loss.cispo import WeightBounds
from forklight_trainer.loss.mask import MaskBounds, unified_mask
from forklight_trainer.loss.policy_loss import LossSettings, loss_settings, policy_loss
from services.trainer.tests import transcription as published
from services.trainer.tests.packed_steps import MadeStep, gradients_of, made_step
from services.trainer.tests.transcription import TokenLoss

TOLERANCE = 2e-7
CISPO = loss_settings(RecipeSection())
LATE_CISPO = loss_settings(RecipeSection(eps_high=0.5))
GRPO = loss_settings(RecipeSection(algorithm="grpo", mask_eps_low=0.2, mask_eps_high=0.2))
DAPO = loss_settings(RecipeSection(algorithm="dapo", mask_eps_low=0.2, mask_eps_high=0.28))
MASKED_CISPO = LossSettings(
    weight_bounds=WeightBounds(low=0.0, high=1.5), mask_bounds=MaskBounds(low=0.7, high=1.2)
)
KL_CISPO = loss_settings(RecipeSection(kl_coefficient=0.05))

OBJECTIVES = {
    "cispo": (CISPO, published.cispo(4.0)),
    "cispo with a low ceiling": (LATE_CISPO, published.cispo(0.5)),
    "cispo with the unified mask": (MASKED_CISPO, published.masked(0.5, 0.3, 0.2)),
    "cispo with KL": (KL_CISPO, published.with_kl(published.cispo(4.0), 0.05)),
    "grpo": (GRPO, published.clipped(0.2, 0.2)),
    "dapo": (DAPO, published.clipped(0.2, 0.28)),
}


def expected_gradients(made: MadeStep, token_loss: TokenLoss, share: float) -> tuple[Tensor, list[Tensor]]:
    responses, leaves = made.responses()
    loss = published.combined(responses, token_loss, share)
    return loss.detach(), list(torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("share", [1.0, 0.0, 0.5, 0.3])
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("seed", range(4))
def test_step_when_compared_with_the_paper_has_its_gradient_at_every_token(
    name: str, share: float, seed: int
) -> None:
    ours, theirs = OBJECTIVES[name]
    made = made_step(seed)
    found = gradients_of(made, ours, share)
    loss, expected = expected_gradients(made, theirs, share)
    if "cispo" in name:  # the masked forms have the gradient of PPO's objective and not its value
        assert found.loss == pytest.approx(float(loss), rel=1e-6, abs=1e-8)
    for sample, gradient in zip(made.batch.samples, expected, strict=True):
        # The KL term and the rest may cancel; then the error is measured by what cancels.
        floor = TOLERANCE * max(np.abs(gradient.numpy()), default=0.0) if "KL" in name else 1e-18
        assert found.drawn(sample) == pytest.approx(gradient.numpy(), rel=TOLERANCE, abs=floor)
    figures = [torch.cat([getattr(o, n) for o in found.outcomes]) for n in ("ratio_R", "keep_R")]
    assert float(figures[0].max()) > 1.5, "no ratio is far enough out for a clip to show"
    assert bool(figures[1].all()) == (ours.mask_bounds is None)


def test_objectives_when_compared_with_each_other_differ() -> None:
    made = made_step(0, num_groups=12)
    found = {
        (name, share): np.concatenate(list(gradients_of(made, ours, share).gradients.values()))
        for name, (ours, _) in OBJECTIVES.items()
        for share in (1.0, 0.5, 0.0)
    }
    names = list(found)
    for place, name in enumerate(names):
        for other in names[place + 1 :]:
            assert not np.allclose(found[name], found[other], rtol=1e-3, atol=0.0), (name, other)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_cispo_when_weights_are_clipped_keeps_a_gradient_at_every_token(seed: int) -> None:
    made = made_step(seed)
    found = gradients_of(made, LATE_CISPO, 0.5)
    for sample in made.batch.samples:
        assert np.all(found.drawn(sample) != 0.0)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 0.5, 0.0]))
@settings(max_examples=30, deadline=None)
def test_cispo_when_on_policy_is_reinforce(seed: int, share: float) -> None:
    made = made_step(seed)
    on_policy = MadeStep(
        batch=made.batch,
        logprobs={s.sample_id: s.behaviour_logprobs.astype(np.float64) for s in made.batch.samples},
    )
    found = gradients_of(on_policy, CISPO, share)
    _, expected = expected_gradients(on_policy, lambda lp, _, advantage: -advantage * lp, share)
    for sample, gradient in zip(made.batch.samples, expected, strict=True):
        assert found.drawn(sample) == pytest.approx(gradient.numpy(), rel=TOLERANCE)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 0.5, 0.0]))
@settings(max_examples=30, deadline=None)
def test_cispo_when_nothing_is_clipped_is_importance_weighted_reinforce(seed: int, share: float) -> None:
    made = made_step(seed)
    unclipped = LossSettings(weight_bounds=WeightBounds(low=0.0, high=math.inf), mask_bounds=None)
    found = gradients_of(made, unclipped, share)
    # The gradient of the ratio itself is ratio x gradient of log pi.
    _, expected = expected_gradients(made, lambda lp, b, advantage: -advantage * torch.exp(lp - b), share)
    for sample, gradient in zip(made.batch.samples, expected, strict=True):
        assert found.drawn(sample) == pytest.approx(gradient.numpy(), rel=TOLERANCE)


def test_mask_when_a_ratio_is_exactly_at_its_bound_keeps_the_token() -> None:
    ratio = torch.tensor([1.25, 1.2500001, 0.75, 0.7499999, 1.25, 0.75])
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0, -1.0, 1.0])
    bounds = MaskBounds(low=0.75, high=1.25)
    assert unified_mask(ratio, advantage, bounds).tolist() == [True, False, True, False, True, True]


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_ceiling_when_a_ratio_is_exactly_there_or_above_weighs_the_same(advantage: float) -> None:
    ratios = torch.tensor([1e-9, 1.0, 4.999, 5.0, 5.001, 500.0, 1e30], dtype=torch.float64)
    behaviour, ones = torch.full((7,), -80.0, dtype=torch.float64), torch.ones(7, dtype=torch.float64)
    leaf = (torch.log(ratios) - 80.0).requires_grad_()
    parts = policy_loss(leaf, behaviour, advantage * ones, settings=CISPO, weights_R=ones)
    parts.loss.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    expected = [-weight * advantage for weight in (1e-9, 1.0, 4.999, 5.0, 5.0, 5.0, 5.0)]
    assert leaf.grad.tolist() == pytest.approx(expected, rel=1e-12)
    assert parts.clipped_high_R.tolist()[-3:] == [True] * 3
    assert not parts.clipped_high_R[:3].any() and not parts.clipped_low_R.any()
