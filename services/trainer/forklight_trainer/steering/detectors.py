"""What a collapse looks like, one detector a symptom: how far past its limit a step is, and in which words.

A detector remembers nothing: `collapse.py` counts steps and keeps the running medians.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from forklight_core.runfile import RunFile
from forklight_core.runfile.sections.steering import (
    AlarmSection,
    CorrelationSection,
    EntropySection,
    GradientSection,
    LengthGapSection,
    RepetitionSection,
    TailSection,
)
from forklight_trainer.steering.baseline import Usual
from forklight_trainer.steering.figures import StepFigures

TINY = 1e-12
NARROWEST_GRADIENT_SPREAD = 0.1  # of a logarithm: calmer runs do not make ordinary steps look like leaps


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A step seen by one detector."""

    pressure: float
    """Above 1 the limit is passed; NaN: nothing was measured."""
    value: float
    limit: float
    """What the value would have to pass."""


class Detector(Protocol):
    """One symptom."""

    @property
    def name(self) -> str:
        """The table of the run file: collapse.<name>."""
        ...

    @property
    def noun(self) -> str:
        """What is measured."""
        ...

    @property
    def advice(self) -> str:
        """What a person can do."""
        ...

    @property
    def settings(self) -> AlarmSection:
        """The run file's."""
        ...

    def figure(self, figures: StepFigures) -> float:
        """What its running median is of; NaN when it was not measured."""
        ...

    def read(self, figures: StepFigures, usual: Usual) -> Reading:
        """How far past its limit a step is."""
        ...


@dataclass(frozen=True, slots=True)
class EntropyDetector:
    """Entropy falls far below what it was."""

    settings: EntropySection
    name: str = "entropy"
    noun: str = "entropy in nats a token"
    advice: str = "lower trainer.learning_rate or raise recipe.eps_high, and look at what earns reward"

    def figure(self, figures: StepFigures) -> float:
        return figures.entropy

    def read(self, figures: StepFigures, usual: Usual) -> Reading:
        limit = largest(self.settings.floor, self.settings.share * usual.median)
        return Reading(
            pressure=limit / max(figures.entropy, TINY) if figures.entropy >= 0 else math.nan,
            value=figures.entropy,
            limit=limit,
        )


@dataclass(frozen=True, slots=True)
class LengthGapDetector:
    """Negative samples grow away from positive ones."""

    settings: LengthGapSection
    name: str = "length_gap"
    noun: str = "mean length of negative samples over that of positive ones"
    advice: str = (
        "combine sample-level loss with token-level normalisation, and lower trainer.grad_clip and "
        "recipe.eps_high (a schedule entry for this window)"
    )

    def figure(self, figures: StepFigures) -> float:
        return figures.length_mean_negative / max(figures.length_mean_positive, TINY)

    def read(self, figures: StepFigures, usual: Usual) -> Reading:
        return read_rise(self.figure(figures), usual, rise=self.settings.rise, limit=self.settings.limit)


@dataclass(frozen=True, slots=True)
class TailDetector:
    """The ends of long responses turn to garble."""

    settings: TailSection
    name: str = "tail"
    noun: str = "perplexity of the last quarter of long responses over that of the first"
    advice: str = "lower trainer.grad_clip and recipe.eps_high, go back a window, and read some long samples"

    def figure(self, figures: StepFigures) -> float:
        return figures.tail_ratio

    def read(self, figures: StepFigures, usual: Usual) -> Reading:
        return read_rise(figures.tail_ratio, usual, rise=self.settings.rise, limit=self.settings.limit)


@dataclass(frozen=True, slots=True)
class RepetitionDetector:
    """Responses go round in circles, by their tokens or by rollout's own stop."""

    settings: RepetitionSection
    name: str = "repetition"
    noun: str = "share of repeated tokens, or of samples stopped for repetition"
    advice: str = "read some of them; check sampling.repetition_tokens and the reward of a stopped sample"

    def figure(self, figures: StepFigures) -> float:
        return figures.repeated_share

    def read(self, figures: StepFigures, usual: Usual) -> Reading:
        settings = self.settings
        by_tokens = Reading(
            pressure=figures.repeated_share / settings.limit,
            value=figures.repeated_share,
            limit=settings.limit,
        )
        by_stops = Reading(
            pressure=figures.repetition_stops / settings.stops,
            value=figures.repetition_stops,
            limit=settings.stops,
        )
        return by_stops if by_stops.pressure == largest(by_tokens.pressure, by_stops.pressure) else by_tokens


@dataclass(frozen=True, slots=True)
class GradientDetector:
    """The gradient norm leaps. In logarithms: norms are positive and their noise is multiplicative."""

    settings: GradientSection
    name: str = "gradient"
    noun: str = "gradient norm"
    advice: str = "lower trainer.grad_clip or trainer.learning_rate, and look at the step's longest samples"

    def figure(self, figures: StepFigures) -> float:
        return math.log(figures.grad_norm) if figures.grad_norm > 0 else math.nan

    def read(self, figures: StepFigures, usual: Usual) -> Reading:
        reach = self.settings.limit * max(usual.spread, NARROWEST_GRADIENT_SPREAD)
        return Reading(
            pressure=(self.figure(figures) - usual.median) / reach,
            value=figures.grad_norm,
            limit=math.exp(min(usual.median + reach, 700.0)),
        )


@dataclass(frozen=True, slots=True)
class CorrelationDetector:
    """Trainer and rollout drift apart, while the gate still lets them pass."""

    settings: CorrelationSection
    limit: float
    name: str = "correlation"
    noun: str = "correlation of trainer's and rollout's probabilities"
    advice: str = "compare releases, dtypes and numeric modes of both sides; parity.min_correlation is next"

    def figure(self, figures: StepFigures) -> float:
        return figures.correlation

    def read(self, figures: StepFigures, usual: Usual) -> Reading:
        return Reading(
            pressure=(1.0 - figures.correlation) / max(1.0 - self.limit, TINY),
            value=figures.correlation,
            limit=self.limit,
        )


def build_detectors(run_file: RunFile) -> Sequence[Detector]:
    """Those that are not off."""
    collapse = run_file.collapse
    half_way = (1.0 + run_file.parity.min_correlation) / 2
    limit = half_way if collapse.correlation.limit is None else collapse.correlation.limit
    every: Sequence[Detector] = (
        EntropyDetector(collapse.entropy),
        LengthGapDetector(collapse.length_gap),
        TailDetector(collapse.tail),
        RepetitionDetector(collapse.repetition),
        GradientDetector(collapse.gradient),
        CorrelationDetector(collapse.correlation, limit),
    )
    return [detector for detector in every if detector.settings.action != "off"]


def read_rise(value: float, usual: Usual, *, rise: float, limit: float) -> Reading:
    """A ratio that may neither pass its limit nor outgrow its running median; up to 1 nothing is amiss."""
    nearest = min(limit, max(rise * usual.median, 1.0)) if usual.median > 0 else limit
    return Reading(pressure=value / nearest, value=value, limit=nearest)


def largest(left: float, right: float) -> float:
    """The larger one; the other where one is NaN."""
    return max(left, right) if left == left and right == right else (right if left != left else left)
