"""The loss of one packed micro-batch: CISPO, GRPO and DAPO are settings of this one function.

What a token weighs is known of the whole step beforehand, so a result does not depend on the packing.
Legend: T packed tokens, R response tokens among them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from forklight_core.runfile.schema import RecipeSection
from forklight_trainer.loss.cispo import (
    LARGEST_LOG_RATIO,
    WeightBounds,
    clip_weight,
    importance_ratio,
    policy_terms,
)
from forklight_trainer.loss.mask import MaskBounds, unified_mask

UNBOUNDED = WeightBounds(low=0.0, high=math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings:
    """What distinguishes the algorithms."""

    weight_bounds: WeightBounds
    mask_bounds: MaskBounds | None
    kl_coefficient: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PolicyLoss:
    """The differentiable sum and what it was made of."""

    loss: Tensor
    ratio_R: Tensor
    keep_R: Tensor
    clipped_high_R: Tensor
    clipped_low_R: Tensor


def loss_settings(recipe: RecipeSection) -> LossSettings:
    """The run file's recipe as bounds. GRPO and DAPO leave the weight alone and drop tokens by the mask."""
    mask = None
    if recipe.mask_eps_low is not None and recipe.mask_eps_high is not None:
        mask = MaskBounds(low=1.0 - recipe.mask_eps_low, high=1.0 + recipe.mask_eps_high)
    bounds = UNBOUNDED
    if recipe.algorithm == "cispo":
        bounds = WeightBounds(low=max(0.0, 1.0 - recipe.eps_low), high=1.0 + recipe.eps_high)
    return LossSettings(weight_bounds=bounds, mask_bounds=mask, kl_coefficient=recipe.kl_coefficient)


def with_ceiling(settings: LossSettings, eps_high: float | None) -> LossSettings:
    """The same with another ceiling of the weight; None: weights are not clipped, nothing changes."""
    if eps_high is None:
        return settings
    return replace(settings, weight_bounds=replace(settings.weight_bounds, high=1.0 + eps_high))


def policy_loss(
    logprobs_R: Tensor,
    behaviour_R: Tensor,
    advantages_R: Tensor,
    *,
    settings: LossSettings,
    weights_R: Tensor,
) -> PolicyLoss:
    """The share of the step's loss that is these response tokens', by what each weighs in the step."""
    ratio_R = importance_ratio(logprobs_R, behaviour_R)
    weight_R = clip_weight(ratio_R, settings.weight_bounds)
    terms_R = policy_terms(logprobs_R, weight_R, advantages_R)
    keep_R = torch.ones_like(ratio_R, dtype=torch.bool)
    if settings.mask_bounds is not None:
        keep_R = unified_mask(ratio_R, advantages_R, settings.mask_bounds)
        terms_R = torch.where(keep_R, terms_R, torch.zeros_like(terms_R))
    if settings.kl_coefficient > 0:
        terms_R = terms_R + settings.kl_coefficient * kl_terms(logprobs_R, behaviour_R)
    return PolicyLoss(
        loss=(terms_R * weights_R.to(terms_R)).sum(),
        ratio_R=ratio_R,
        keep_R=keep_R,
        clipped_high_R=ratio_R > settings.weight_bounds.high,
        clipped_low_R=ratio_R < settings.weight_bounds.low,
    )


def kl_terms(logprobs_R: Tensor, behaviour_R: Tensor) -> Tensor:
    """k3 estimate, token by token, of KL(policy || behaviour): never below 0."""
    difference_R = (behaviour_R - logprobs_R).clamp(max=LARGEST_LOG_RATIO)
    return torch.exp(difference_R) - difference_R - 1.0
