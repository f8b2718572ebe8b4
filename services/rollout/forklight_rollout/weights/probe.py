"""The probe: does this pod compute what the trainer computes, under the very weights it is about to use?

The manifest brings a token sequence and what the trainer says of it; the engine scores the same sequence.
"""

from __future__ import annotations

import math
import time
from array import array
from dataclasses import dataclass
from enum import StrEnum

from forklight_core.errors import ForklightError, InvalidInputError, PreconditionError
from forklight_rollout.ports import Engine
from forklight_rollout.weights.manifest import Probe, PublishedWeights

TOLERANCES = {"float32": 1e-3, "bfloat16": 0.25}
"""Largest difference of a log-prob, by the type of the weights, when the run file names none."""
MOST_OFF = 0.02
"""In tolerance mode, the share of tokens that may differ by more: a router that stands between two experts
falls to either side of a rounding error, and such a token is far off on a pod where nothing is wrong."""


class ProbeOutcome(StrEnum):
    """What a probe found. Only DISAGREES keeps a pod from work."""

    EQUAL = "equal"  # every bit
    WITHIN = "within"  # the tolerance
    ABSENT = "absent"  # the manifest has none
    DISAGREES = "disagrees"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """One probe of one version."""

    outcome: ProbeOutcome
    version: int
    reason: str  # in words; names both sides where equal bits could not be demanded
    num_compared: int = 0
    num_off: int = 0  # with other bits where bits were demanded, else beyond the tolerance
    max_difference: float = 0.0
    probe_s: float = 0.0

    @property
    def is_sound(self) -> bool:
        return self.outcome is not ProbeOutcome.DISAGREES


def run_probe(engine: Engine, weights: PublishedWeights, tolerance: float | None) -> ProbeResult:
    """Score the probe with the weights in use. Takes one prefill; call it where `engine` may be called."""
    probe = weights.manifest.probe
    if probe is None:
        return ProbeResult(
            outcome=ProbeOutcome.ABSENT, version=weights.version, reason="the manifest has no probe"
        )
    started = time.perf_counter()
    try:
        comparison = _compare(
            _score(engine, probe),
            array("f", probe.logprobs),
            hindrance=_find_hindrance(engine, probe),
            tolerance=tolerance or _default_tolerance(weights),
        )
    except ForklightError as error:
        comparison = _Comparison(ProbeOutcome.DISAGREES, f"the probe cannot be scored: {error}")
    return ProbeResult(
        outcome=comparison.outcome,
        version=weights.version,
        reason=f"version {weights.version}: {comparison.words}",
        num_compared=comparison.num_compared,
        num_off=comparison.num_off,
        max_difference=comparison.max_difference,
        probe_s=time.perf_counter() - started,
    )


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Ours against the trainer's."""

    outcome: ProbeOutcome
    words: str
    num_compared: int = 0
    num_off: int = 0
    max_difference: float = 0.0


def _score(engine: Engine, probe: Probe) -> array[float]:
    """The engine's log-probs of as many tokens as it can hold; what follows a token does not change them."""
    limits = engine.limits
    if max(probe.ids) >= limits.vocabulary_size:
        raise InvalidInputError(f"token {max(probe.ids)} is beyond a vocabulary of {limits.vocabulary_size}")
    ids = probe.ids[: limits.max_tokens]
    found = array("f", engine.score(ids))
    if len(found) != len(ids) - 1 or not found:
        raise PreconditionError(f"the engine gave {len(found)} log-probs for {len(ids)} tokens")
    return found


def _compare(ours: array[float], theirs: array[float], *, hindrance: str, tolerance: float) -> _Comparison:
    """Bit by bit, unless something hinders that; then by the tolerance."""
    theirs = theirs[: len(ours)]
    differences = [abs(one - other) for one, other in zip(ours, theirs, strict=True)]
    if hindrance:
        num_off = sum(not difference <= tolerance for difference in differences)  # NaN is off
        outcome = ProbeOutcome.WITHIN if num_off <= MOST_OFF * len(ours) else ProbeOutcome.DISAGREES
        manner = f"at a tolerance of {tolerance:g} because of {hindrance}"
    else:
        num_off = sum(one != other for one, other in zip(_bits(ours), _bits(theirs), strict=True))
        outcome = ProbeOutcome.DISAGREES if num_off else ProbeOutcome.EQUAL
        manner = "bit by bit, since both sides compute alike"
    worst = max((difference for difference in differences if not math.isnan(difference)), default=0.0)
    words = (
        f"{num_off} of {len(ours)} log-probs of the probe differ from the trainer's, by {worst:.3g} at most, "
        f"compared {manner}"
    )
    return _Comparison(outcome, words, len(ours), num_off, worst)


def _find_hindrance(engine: Engine, probe: Probe) -> str:
    """Why bits cannot be compared; empty when they can."""
    mode = engine.numeric_mode
    if not (mode.is_parity and probe.is_parity):
        sides = [
            name for name, ok in (("this pod", mode.is_parity), ("the trainer", probe.is_parity)) if not ok
        ]
        return f"tolerance mode of {' and '.join(sides)}"
    pairs = {
        "contract": (mode.contract, probe.contract),
        "device": (mode.device, probe.device),
        "torch": (mode.torch, probe.torch),
        "triton": (mode.triton, probe.triton),
    }
    return ", ".join(
        f"{name} {ours} here, {theirs} there" for name, (ours, theirs) in pairs.items() if ours != theirs
    )


def _default_tolerance(weights: PublishedWeights) -> float:
    """By the least exact type among the tensors."""
    dtypes = {entry.dtype for entry in weights.manifest.tensors.values()}
    return max(
        (TOLERANCES.get(dtype, max(TOLERANCES.values())) for dtype in dtypes), default=TOLERANCES["float32"]
    )


def _bits(values: array[float]) -> array[int]:
    return array("I", values.tobytes())
