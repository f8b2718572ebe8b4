"""The figures of a step that steering looks at, read from the step's line in steps.jsonl.

The live loop and a replay read the same JSON object, so they decide the same. NaN: not measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from forklight_core.errors import InvalidInputError

FEWEST_PARITY_TOKENS = 32  # a correlation over fewer says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFigures:
    """One step, as the window and the alarms see it. The names are those of a StepRecord."""

    step: int
    window: int = 0
    """0: the line does not say."""
    length_p99: float = math.nan
    length_mean_positive: float = math.nan
    length_mean_negative: float = math.nan
    perplexity: float = math.nan
    tail_ratio: float = math.nan
    repeated_share: float = math.nan
    repetition_stops: float = math.nan
    entropy: float = math.nan
    grad_norm: float = math.nan
    correlation: float = math.nan
    """Only against the weights that sampled; off-policy figures hold what was learned."""


def read_figures(record: Mapping[str, object]) -> StepFigures:
    """From a line of steps.jsonl, also one that an older release wrote."""
    step = record.get("step")
    if not isinstance(step, int) or isinstance(step, bool):
        raise InvalidInputError(f"a step's record needs a whole number as step, found {step!r}")
    is_gated = record.get("parity_version") is not None
    enough = _number(record, "parity_tokens") >= FEWEST_PARITY_TOKENS
    window = _number(record, "window")
    return StepFigures(
        step=step,
        window=int(window) if window > 0 else 0,
        length_p99=_number(record, "length_p99"),
        length_mean_positive=_number(record, "length_mean_positive"),
        length_mean_negative=_number(record, "length_mean_negative"),
        perplexity=_number(record, "perplexity"),
        tail_ratio=_number(record, "tail_ratio"),
        repeated_share=_number(record, "repeated_share"),
        repetition_stops=_number(record, "repetition_stops"),
        entropy=_number(record, "entropy"),
        grad_norm=_number(record, "grad_norm"),
        correlation=_number(record, "correlation") if is_gated and enough else math.nan,
    )


def _number(record: Mapping[str, object], name: str) -> float:
    """NaN where it is absent, null, or no finite number."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value) if math.isfinite(value) else math.nan
