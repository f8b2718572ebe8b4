"""The unified mask (MiniMax-M1, equations 6 and 7): drop the tokens whose gradient PPO's clip would drop.

    M = 0  when A > 0 and r > 1 + eps_high,  or A < 0 and r < 1 - eps_low;   M = 1 otherwise

With the weight r left unclipped, mask * weight * A * grad log pi is the gradient of PPO's clipped objective.
Legend: T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskBounds:
    """Tokens beyond these ratios lose their gradient when the advantage would push them further out."""

    low: float
    high: float


def unified_mask(ratio_T: Tensor, advantages_T: Tensor, bounds: MaskBounds) -> Tensor:
    """Which tokens keep their gradient."""
    rises_too_far_T = (advantages_T > 0) & (ratio_T > bounds.high)
    falls_too_far_T = (advantages_T < 0) & (ratio_T < bounds.low)
    return ~(rises_too_far_T | falls_too_far_T)
