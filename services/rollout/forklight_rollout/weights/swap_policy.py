"""What happens to running samples when new weights come, and the one operation that swaps and proves them.

Runs on the engine's thread, between two steps: from the swap to the verdict on it no token is drawn.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from forklight_rollout.generation.generator import Generator
from forklight_rollout.weights.manifest import PublishedWeights
from forklight_rollout.weights.probe import ProbeResult, run_probe


class SwapPolicy(StrEnum):
    """What becomes of samples that run when a version comes."""

    KEEP = "keep"  # they go on; their spans say which tokens came from which version
    RESTART = "restart"  # they begin anew, so that every sample is of one version
    FINISH = "finish"  # they end first, and nothing new begins until then


class SwapCache(StrEnum):
    """What becomes of the caches of samples that go on."""

    KEEP = "keep"  # keys, values and states of the old weights stay
    RECOMPUTE = "recompute"  # prompt and response so far are prefilled under the new weights


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapRules:
    """How a pod takes new weights; of the run file."""

    policy: SwapPolicy = SwapPolicy.KEEP
    cache: SwapCache = SwapCache.KEEP
    finish_s: float = 600.0
    """With FINISH, how long running samples may hold up a version; then it is as with KEEP."""
    probe_tolerance: float | None = None


class SavedTokens(Protocol):
    """Where tokens of samples that run are saved for other pods."""

    async def forget_saved(self, sample_ids: Sequence[str]) -> None:
        """These samples begin anew: nothing saved of them counts any more. Waits out an outage."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapResult:
    """What a swap came to."""

    swap_s: float  # decoding stood still for so long, the probe included
    probe: ProbeResult
    lost: tuple[str, ...] = ()
    """Samples that began anew and had saved tokens."""


def swap_weights(generator: Generator, weights: PublishedWeights, rules: SwapRules) -> SwapResult:
    """Swap to the staged weights, prove them, and deal with what runs.

    Weights that fail the probe are in the engine and cannot be taken out again, so nothing is drawn with
    them: what runs goes back to what waits, and nothing is admitted until a swap that holds.
    """
    started = time.perf_counter()
    generator.engine.swap()
    probe = run_probe(generator.engine, weights, rules.probe_tolerance)
    lost: list[str] = []
    if not probe.is_sound or rules.policy is SwapPolicy.RESTART or rules.cache is SwapCache.RECOMPUTE:
        lost = generator.begin_again(keeps_tokens=rules.policy is not SwapPolicy.RESTART)
    generator.is_admitting = probe.is_sound
    return SwapResult(swap_s=time.perf_counter() - started, probe=probe, lost=tuple(lost))


def hold_back(generator: Generator) -> None:
    """Let what runs come to its end; nothing new begins."""
    generator.is_admitting = False


def let_in(generator: Generator) -> None:
    """The end of `hold_back`."""
    generator.is_admitting = True
