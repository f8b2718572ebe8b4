"""Group-relative advantage (MiniMax-M1, equation 2): A_i = (R_i - mean(R)) / std(R) inside one group.

The standard deviation is the population's: the group is all there is. Everything runs in Python floats
(float64).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from forklight_core.errors import InvalidInputError

SAME_REWARD = 1e-9  # a spread this small, relative to the rewards, is rounding and no signal
LARGEST_REWARD = 1e100  # its square is still a number


def group_advantages(
    rewards: Sequence[float], *, group_id: str = "", equal_is_zero: bool = False
) -> list[float]:
    """Advantages of one group; equal rewards are an error unless dynamic sampling is off by decision."""
    _check_rewards(rewards, group_id)
    mean = math.fsum(rewards) / len(rewards)
    std = math.sqrt(math.fsum((reward - mean) ** 2 for reward in rewards) / len(rewards))
    if std > SAME_REWARD * max(1.0, *(abs(reward) for reward in rewards)):
        return [(reward - mean) / std for reward in rewards]
    if equal_is_zero:
        return [0.0] * len(rewards)
    if len(rewards) == 1:
        raise InvalidInputError(
            f"group {group_id or '?'} has one sample, and an advantage compares samples of a group: set "
            "sampling.group_size and buffer.min_scored_samples to 2 or more"
        )
    raise InvalidInputError(
        f"group {group_id or '?'}: all {len(rewards)} rewards are {rewards[0]!r}, so the standard deviation "
        "is 0 and the advantage undefined. Dynamic sampling filters such groups: set "
        "buffer.dynamic_sampling = true"
    )


def _check_rewards(rewards: Sequence[float], group_id: str) -> None:
    if not rewards:
        raise InvalidInputError(f"group {group_id or '?'} is empty: the buffer must not put it into a batch")
    wrong = [reward for reward in rewards if not abs(reward) <= LARGEST_REWARD]
    if wrong:
        raise InvalidInputError(
            f"group {group_id or '?'} has a reward of {wrong[0]}: rewards must be finite numbers of at "
            f"most {LARGEST_REWARD:g}; look at its verdicts"
        )
