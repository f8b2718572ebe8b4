"""Figures of made-up runs. Their noise is that of recorded nano runs, half as large again and heavier tailed.

Measured on two recorded demos (46 and 36 steps, trend removed), as standard deviations of logarithms:
perplexity 0.008, tail ratio 0.035, length gap 0.04, entropy 0.12, gradient norm 0.33; neighbours correlated
up to 0.4.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from forklight_trainer.steering.figures import StepFigures

NEIGHBOURS = 0.3
Float64Array = npt.NDArray[np.float64]


def noise(chance: np.random.Generator, num_steps: int, deviation: float) -> Float64Array:
    """Heavy-tailed, each value a little like the one before."""
    fresh = chance.standard_t(5, num_steps) * np.sqrt(3 / 5) * np.sqrt(1 - NEIGHBOURS**2)
    found = np.zeros(num_steps)
    for place in range(num_steps):
        found[place] = (NEIGHBOURS * found[place - 1] if place else 0.0) + fresh[place]
    return found * deviation


def healthy_run(seed: int, num_steps: int, *, window: int = 1000) -> list[StepFigures]:
    """Learns as it should: entropy falls to a fifth, gradients double, wrong answers grow a little longer."""
    chance = np.random.default_rng(seed)
    progress = np.linspace(0.0, 1.0, num_steps)
    lengths = 400 * (1 + 0.5 * progress)
    columns = {
        "perplexity": 1.3 * np.exp(-0.15 * progress + noise(chance, num_steps, 0.012)),
        "tail_ratio": 1.1 * np.exp(noise(chance, num_steps, 0.05)),
        "repeated_share": 0.03 * np.exp(noise(chance, num_steps, 0.3)),
        "repetition_stops": 0.005 * np.exp(noise(chance, num_steps, 0.3)),
        "entropy": 0.4 * np.exp(-1.6 * progress + noise(chance, num_steps, 0.18)),
        "grad_norm": 0.3 * np.exp(0.7 * progress + noise(chance, num_steps, 0.5)),
        "correlation": 1.0 - 5e-4 * np.exp(noise(chance, num_steps, 0.4)),
        "length_mean_positive": lengths,
        "length_mean_negative": lengths * (0.95 + 0.3 * progress) * np.exp(noise(chance, num_steps, 0.06)),
        "length_p99": 0.95 * window * np.exp(noise(chance, num_steps, 0.02)),
    }
    return [
        StepFigures(
            step=place + 1, window=0, **{name: float(column[place]) for name, column in columns.items()}
        )
        for place in range(num_steps)
    ]


def with_column(run: list[StepFigures], name: str, values: Float64Array, *, start: int) -> list[StepFigures]:
    """The run with other values of a figure from place `start` on, as far as there are values."""
    changed = list(run)
    for place, value in enumerate(values, start=start):
        changed[place] = replace(changed[place], **{name: float(value)})
    return changed
