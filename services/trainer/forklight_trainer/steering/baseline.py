"""What a figure usually is: median and spread of its last values, blind to outliers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

FEWEST = 20  # values before anything is called usual
NORMAL = 1.4826  # MAD to standard deviation, for normal noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    """Both NaN while there are too few values."""

    median: float = math.nan
    spread: float = math.nan
    """Median absolute deviation, scaled to a standard deviation."""


def find_usual(values: Sequence[float]) -> Usual:
    """Of the values of a figure, oldest first."""
    if len(values) < FEWEST:
        return Usual()
    median = statistics.median(values)
    spread = statistics.median(abs(value - median) for value in values)
    return Usual(median=median, spread=NORMAL * spread)
