"""What is known of the rewards of one source, and what it makes of the next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forklight_core.errors import DataLossError

KEPT = 0.99
"""Of the running mean and variance at each reward."""
LOW, HIGH = 0.05, 0.95
RECENT = 1024
FEWEST = 64
LEAST_SIGMA = 0.1
LARGEST = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceState:
    """Running statistics of one source. Immutable: observing gives the next one."""

    count: int = 0
    mean: float = 0.0
    variance: float = 0.0
    recent: tuple[float, ...] = ()

    def observe(self, rewards: Sequence[float]) -> SourceState:
        """After these. The first rewards weigh evenly, until KEPT weighs more."""
        count, mean, variance = self.count, self.mean, self.variance
        for reward in rewards:
            count += 1
            weight = max(1 - KEPT, 1 / count)
            apart = reward - mean
            mean += weight * apart
            variance = (1 - weight) * (variance + weight * apart * apart)
        recent = (*self.recent, *rewards)[-RECENT:]
        return SourceState(count=count, mean=mean, variance=variance, recent=recent)

    def scale(self) -> Scale | None:
        """What the next rewards are shaped by; None before FEWEST rewards.

        The bounds are rewards that were given. Where both are the same nothing is clipped: a source of rare
        successes would lose them all.
        """
        if self.count < FEWEST:
            return None
        ordered = sorted(self.recent)
        low = ordered[math.ceil(LOW * len(ordered)) - 1]
        high = ordered[math.ceil(HIGH * len(ordered)) - 1]
        if low == high:
            low, high = -math.inf, math.inf
        return Scale(low=low, high=high, mean=self.mean, sigma=max(math.sqrt(self.variance), LEAST_SIGMA))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Clips a reward and normalises it."""

    low: float
    high: float
    mean: float
    sigma: float

    def shape(self, reward: float) -> tuple[float, float]:
        """What clipping adds to a reward, and what normalising adds to that."""
        clipped = min(max(reward, self.low), self.high)
        standard = (clipped - self.mean) / self.sigma
        return clipped - reward, min(max(standard, -LARGEST), LARGEST) - clipped


def state_to_json(state: SourceState) -> Mapping[str, object]:
    """As it is kept in a file."""
    return {
        "count": state.count,
        "mean": state.mean,
        "variance": state.variance,
        "recent": list(state.recent),
    }


def state_from_json(found: object, where: str) -> SourceState:
    """From a file; DataLossError when it is not one of ours."""
    try:
        assert isinstance(found, dict)
        return SourceState(
            count=int(found["count"]),
            mean=float(found["mean"]),
            variance=float(found["variance"]),
            recent=tuple(float(each) for each in found["recent"]),
        )
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise DataLossError(f"{where} holds no state of shaping: {error!r}") from None
