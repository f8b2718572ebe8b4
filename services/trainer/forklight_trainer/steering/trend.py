"""By how much a noisy figure changed over its last values, and how sure that is.

A straight line by least squares. The error of its slope is widened by (1 + r) / (1 - r), r the correlation of
neighbouring residuals: noise that lasts several steps (updates between two versions, a hard stretch of
prompts) would otherwise look like many independent looks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LARGEST_NEIGHBOUR_CORRELATION = 0.9
FEWEST = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """The line's rise from the first value to the last."""

    change: float
    error: float
    """Its standard error."""


def fit_trend(values: Sequence[float]) -> Trend:
    """Of at least FEWEST values, one a step."""
    y = np.asarray(values, dtype=np.float64)
    x = np.arange(len(y)) - (len(y) - 1) / 2
    square = float(x @ x)
    slope = float(x @ (y - y.mean())) / square
    residuals = y - y.mean() - slope * x
    energy = float(residuals @ residuals)
    together = float(residuals[1:] @ residuals[:-1]) / energy if energy > 0 else 0.0
    together = min(max(together, 0.0), LARGEST_NEIGHBOUR_CORRELATION)
    variance = energy / (len(y) - 2) / square * (1 + together) / (1 - together)
    span = len(y) - 1
    return Trend(change=slope * span, error=math.sqrt(variance) * span)
