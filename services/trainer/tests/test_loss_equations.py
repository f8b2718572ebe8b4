"""Each equation against a plain float64 transcription, values and gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from forklight_core.errors import InvalidInputError
from forklight_core.runfile.schema import RecipeSection
from forklight_trainer.loss.advantage import group_advantages
from forklight_trainer.loss.cispo import WeightBounds
from forklight_trainer.loss.mask import MaskBounds
from forklight_trainer.loss.policy_loss import LossSettings, loss_settings, policy_loss

CISPO = loss_settings(RecipeSection())
CISPO_PLAIN = LossSettings(weight_bounds=WeightBounds(low=0.0, high=math.inf), mask_bounds=None)
GRPO = loss_settings(RecipeSection(algorithm="grpo", mask_eps_low=0.2, mask_eps_high=0.2))
DAPO = loss_settings(RecipeSection(algorithm="dapo", mask_eps_low=0.2, mask_eps_high=0.28))


def random_tokens(seed: int, num_tokens: int = 97, spread: float = 1.5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    behaviour = -3 * torch.rand(num_tokens, generator=generator, dtype=torch.float64)
    logprobs = (behaviour + spread * torch.randn(num_tokens, generator=generator, dtype=torch.float64)).clamp(
        max=0
    )
    advantages = torch.randn(num_tokens, generator=generator, dtype=torch.float64)
    return logprobs, behaviour, advantages


def uniform(num_tokens: int) -> Tensor:
    return torch.full((num_tokens,), 1.0 / num_tokens, dtype=torch.float64)


def gradient(settings: LossSettings, tokens: tuple[Tensor, Tensor, Tensor]) -> tuple[float, Tensor]:
    logprobs = tokens[0].clone().requires_grad_()
    parts = policy_loss(logprobs, tokens[1], tokens[2], settings=settings, weights_R=uniform(len(logprobs)))
    parts.loss.backward()  # type: ignore[no-untyped-call]
    assert logprobs.grad is not None
    return float(parts.loss.detach()), logprobs.grad


def transcribe_unified(
    tokens: tuple[Tensor, Tensor, Tensor], ceiling: float, mask: MaskBounds | None
) -> tuple[float, list[float]]:
    """Equations 4 to 7, token by token, in plain Python."""
    loss, gradients = 0.0, []
    num_tokens = len(tokens[0])
    for logprob, behaviour, advantage in zip(*(t.tolist() for t in tokens), strict=True):
        ratio = math.exp(logprob - behaviour)
        weight = min(ratio, ceiling)
        keep = 1.0
        if mask is not None and (
            (advantage > 0 and ratio > mask.high) or (advantage < 0 and ratio < mask.low)
        ):
            keep = 0.0
        loss -= weight * advantage * logprob * keep / num_tokens
        gradients.append(-weight * advantage * keep / num_tokens)
    return loss, gradients


def test_advantage_when_rewards_differ_follows_equation_2() -> None:
    rewards = [1.0, 0.0, 0.0, 0.5, 1.0, 0.25]
    values = torch.tensor(rewards, dtype=torch.float64)
    expected = (values - values.mean()) / values.std(unbiased=False)
    assert group_advantages(rewards) == pytest.approx(expected.tolist(), abs=1e-15)


@pytest.mark.parametrize("rewards", [[0.0, 0.0], [1.0] * 16, [0.1 + 0.2, 0.3]])
def test_advantage_when_rewards_are_equal_is_a_named_error(rewards: list[float]) -> None:
    with pytest.raises(InvalidInputError, match="group r/g1.*dynamic_sampling"):
        group_advantages(rewards, group_id="r/g1")
    assert group_advantages(rewards, equal_is_zero=True) == [0.0] * len(rewards)


@pytest.mark.parametrize("rewards", [[], [1.0, math.nan], [math.inf, 0.0]])
def test_advantage_when_group_is_empty_or_not_finite_is_a_named_error(rewards: Sequence[float]) -> None:
    with pytest.raises(InvalidInputError):
        group_advantages(rewards)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=32), st.floats(0.1, 10), st.floats(-5, 5))
@settings(max_examples=50, deadline=None)
def test_advantage_when_rewards_are_scaled_and_shifted_stays(
    rewards: list[float], scale: float, shift: float
) -> None:
    if max(rewards) - min(rewards) < 1e-3:
        return
    moved = group_advantages([scale * reward + shift for reward in rewards])
    assert moved == pytest.approx(group_advantages(rewards), abs=1e-6)


@pytest.mark.parametrize(
    ("loss", "ceiling", "mask"),
    [
        (CISPO, 5.0, None),
        (GRPO, math.inf, MaskBounds(low=0.8, high=1.2)),
        (DAPO, math.inf, MaskBounds(low=0.8, high=1.28)),
        (
            LossSettings(
                weight_bounds=WeightBounds(low=0.0, high=2.0), mask_bounds=MaskBounds(low=0.5, high=3.0)
            ),
            2.0,
            MaskBounds(low=0.5, high=3.0),
        ),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_policy_loss_when_compared_with_the_equations_is_equal(
    loss: LossSettings, ceiling: float, mask: MaskBounds | None, seed: int
) -> None:
    tokens = random_tokens(seed)
    value, grad = gradient(loss, tokens)
    expected_value, expected_grad = transcribe_unified(tokens, ceiling, mask)
    assert value == pytest.approx(expected_value, rel=1e-12)
    assert grad.tolist() == pytest.approx(expected_grad, rel=1e-12, abs=1e-18)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_policy_loss_when_nothing_is_clipped_is_weighted_reinforce(seed: int) -> None:
    logprobs, _, advantages = random_tokens(seed)
    _, on_policy = gradient(CISPO, (logprobs, logprobs.clone(), advantages))
    assert torch.allclose(on_policy, -advantages / len(advantages), rtol=1e-14)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 8.0))
@settings(max_examples=25, deadline=None)
def test_cispo_when_ratios_are_wild_keeps_every_tokens_gradient(seed: int, spread: float) -> None:
    tokens = random_tokens(seed, spread=spread)
    _, grad = gradient(CISPO, tokens)
    ratio = torch.exp(tokens[0] - tokens[1])
    assert bool((grad[tokens[2] != 0] != 0).all())
    assert torch.allclose(grad, -ratio.clamp(max=5.0) * tokens[2] / len(ratio), rtol=1e-12)


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.9), st.floats(0.05, 2.0))
@settings(max_examples=50, deadline=None)
def test_mask_when_weight_is_unclipped_is_the_gradient_of_ppos_clipped_objective(
    seed: int, eps_low: float, eps_high: float
) -> None:
    logprobs, behaviour, advantages = random_tokens(seed)
    recipe = RecipeSection(algorithm="dapo", mask_eps_low=eps_low, mask_eps_high=eps_high)
    _, ours = gradient(loss_settings(recipe), (logprobs, behaviour, advantages))
    theirs = logprobs.clone().requires_grad_()
    ratio = torch.exp(theirs - behaviour)
    clipped = ratio.clamp(1 - eps_low, 1 + eps_high)
    loss = -torch.minimum(ratio * advantages, clipped * advantages).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    assert theirs.grad is not None
    assert torch.allclose(ours, theirs.grad, rtol=1e-12)


def test_kl_term_when_coefficient_is_given_adds_its_gradient() -> None:
    tokens = random_tokens(3)
    with_kl = LossSettings(weight_bounds=CISPO.weight_bounds, mask_bounds=None, kl_coefficient=0.1)
    _, plain = gradient(CISPO, tokens)
    _, punished = gradient(with_kl, tokens)
    expected = 0.1 * (1 - torch.exp(tokens[1] - tokens[0])) / len(plain)
    assert torch.allclose(punished - plain, expected, rtol=1e-9)


def test_policy_loss_when_split_into_packs_adds_up() -> None:
    tokens = random_tokens(7)
    whole, _ = gradient(CISPO_PLAIN, tokens)
    parts = [
        policy_loss(*(t[place] for t in tokens), settings=CISPO_PLAIN, weights_R=uniform(97)[place]).loss
        for place in (slice(0, 10), slice(10, 11), slice(11, 97))
    ]
    assert float(sum(parts)) == pytest.approx(whole, rel=1e-12)
