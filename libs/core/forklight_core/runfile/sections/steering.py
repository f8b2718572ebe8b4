"""What steers a run while it goes: the length window, and what notices a collapse."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from forklight_core.runfile.sections.section import Fraction, Positive, Section
from forklight_core.runfile.units import Count

AlarmAction = Literal["off", "warn", "pause", "roll_back"]
Times = Annotated[float, Field(gt=1.0, allow_inf_nan=False)]


def _ascending(windows: tuple[int, ...]) -> tuple[int, ...]:
    if list(windows) != sorted(set(windows)):
        raise ValueError('windows must rise, each larger than the one before: ["40Ki", "48Ki", "56Ki"]')
    return windows


class LengthSection(Section):
    """The window of a response, moved while the policy learns."""

    windows: Annotated[tuple[Count, ...], AfterValidator(_ascending)] = ()
    """Windows in tokens, first to last; the paper's are 40Ki 48Ki 56Ki 64Ki 72Ki 80Ki. None: it is fixed."""
    near: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    """Advance only when the 99th percentile of lengths fills this share of the window."""
    converged: Annotated[float, Field(gt=0.0, le=1.0)] = 0.02
    """And when the perplexity surely changed by less than this share over the last `patience` steps."""
    patience: Annotated[int, Field(ge=4, le=10_000)] = 40
    """Steps that both are measured over; take two versions' worth of updates or more."""
    min_steps: Positive = 50
    """Steps in a window before it may move in any direction."""
    back_repeated_share: Fraction = 0.3
    """Step back when more than this share of a step's tokens repeats what the response said before."""
    back_tail_ratio: Times = 2.0
    """Step back when the tails of long responses have so many times the perplexity of their heads."""
    back_patience: Positive = 5
    """Steps in a row that either has to last."""
    cool_down: Annotated[int, Field(ge=0)] = 100
    """Steps without an advance after a step back; doubles each time the same window is left that way."""


class AlarmSection(Section):
    """One thing that is watched."""

    action: AlarmAction = "warn"
    """off, warn, pause (until a person goes on) or roll_back (to an older checkpoint; then pause)."""
    patience: Positive = 5
    """Steps in a row that the limit has to be passed; the alert ends after as many well inside it."""


class EntropySection(AlarmSection):
    """The policy stops exploring: entropy falls."""

    share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    """Alert under this share of the running median; 0: never."""
    floor: Annotated[float, Field(ge=0.0)] = 0.0
    """And under this, in nats a token, whatever the median is."""


class LengthGapSection(AlarmSection):
    """Samples with an advantage below 0 grow away from those above: their mean lengths, divided."""

    rise: Times = 1.5
    """Alert above so many times the running median of that ratio."""
    limit: Times = 3.0
    """And above this ratio, whatever the median is."""


class TailSection(AlarmSection):
    """The ends of long responses turn to garble: perplexity of the last quarter over that of the first."""

    rise: Times = 1.5
    """Alert above so many times the running median of that ratio."""
    limit: Times = 2.0
    """And above this ratio, whatever the median is."""


class RepetitionSection(AlarmSection):
    """Responses go round in circles."""

    limit: Annotated[float, Field(gt=0.0, le=1.0)] = 0.3
    """Alert when more than this share of tokens lies in stretches the same response has had before."""
    stops: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """And when more than this share of samples was stopped for repetition."""


class GradientSection(AlarmSection):
    """The gradient norm leaps."""

    patience: Positive = 2
    """Steps in a row that the limit has to be passed; the alert ends after as many well inside it."""
    limit: Annotated[float, Field(gt=0.0)] = 6.0
    """Alert so many deviations above the running median, in logarithms. A deviation is 1.4826 x MAD."""


class CorrelationSection(AlarmSection):
    """Trainer and rollout drift apart; the gate of [parity] pauses later."""

    patience: Positive = 3
    """Steps in a row that the limit has to be passed; the alert ends after as many well inside it."""
    limit: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Alert when the correlation is below this. None: half-way from parity.min_correlation to 1."""


class CollapseSection(Section):
    """What a collapse looks like, and what is done about it."""

    history: Annotated[int, Field(ge=20, le=10_000)] = 100
    """Steps that running medians look back."""
    roll_back_steps: Positive = 20
    """`roll_back` goes to the newest checkpoint so many steps before the trouble began, or earlier."""
    max_roll_backs: Positive = 2
    """Roll backs without getting past the trouble; the next one is a pause."""
    entropy: EntropySection = EntropySection()
    """The policy stops exploring."""
    length_gap: LengthGapSection = LengthGapSection()
    """Wrong answers grow faster than right ones."""
    tail: TailSection = TailSection()
    """The ends of long responses turn to garble."""
    repetition: RepetitionSection = RepetitionSection()
    """Responses repeat themselves."""
    gradient: GradientSection = GradientSection()
    """Gradients leap."""
    correlation: CorrelationSection = CorrelationSection()
    """Trainer and rollout drift apart."""
