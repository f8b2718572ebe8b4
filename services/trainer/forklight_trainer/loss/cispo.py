"""CISPO (MiniMax-M1, equations 4 and 5): clip the importance weight, never the update.

    loss = - sum over tokens of  w * sg(clip(r, 1 - eps_low, 1 + eps_high)) * A * log pi
    r    = pi(token) / pi_behaviour(token);   w: what the token weighs in the step, see normalization.py

`sg` stops the gradient, so every token keeps the gradient of its log pi, scaled by a bounded weight.
Legend: T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST_LOG_RATIO = 30.0  # e^30 is far beyond any ceiling; keeps exp() finite


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightBounds:
    """Bounds of the importance weight; infinity and 0 bound nothing."""

    low: float
    high: float


def importance_ratio(logprobs_T: Tensor, behaviour_T: Tensor) -> Tensor:
    """r, without a gradient: it only ever stands under the stop-gradient."""
    difference_T = logprobs_T.detach() - behaviour_T
    return torch.exp(difference_T.clamp(max=LARGEST_LOG_RATIO))


def clip_weight(ratio_T: Tensor, bounds: WeightBounds) -> Tensor:
    """The clipped importance weight r-hat of equation 5."""
    return ratio_T.clamp(min=bounds.low, max=bounds.high)


def policy_terms(logprobs_T: Tensor, weight_T: Tensor, advantages_T: Tensor) -> Tensor:
    """What each token adds to the loss, before what it weighs in the step (equation 4)."""
    return -(weight_T.detach() * advantages_T * logprobs_T)
