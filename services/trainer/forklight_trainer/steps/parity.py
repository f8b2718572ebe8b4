"""How far trainer and rollout agree about the probability of the same tokens, and the gate on it.

Measured before the update, and against the very weights that sampled: only those can tell a mismatch from
learning. They are the current ones at the first update after a publication; later they are still on disk, and
one pack is scored with them. Only samples wholly of one version count: the memory of an older version would
still be in the others. Where neither can be had, the figures are against the current weights and gate
nothing.
Legend: R response tokens, N samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from forklight_core.errors import ParityError
from forklight_core.runfile.schema import ParitySection
from forklight_trainer.batches.packing import Pack

MIN_GATED_TOKENS = 32  # a correlation over fewer says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Agreement over some tokens; NaN where there were none."""

    correlation: float
    max_dp: float
    mean_kl: float
    num_tokens: int
    num_unequal: int | None
    """Tokens whose log-probs differ in bits; None where other weights sampled them."""
    version: int | None
    """Version that sampled the tokens and scored them again; None: the current weights scored them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probe:
    """The tokens of a pack that one version sampled from first to last."""

    pack: Pack
    version: int
    own_R: Tensor


def measure_parity(logprobs_R: Tensor, behaviour_R: Tensor, *, version: int | None) -> Parity:
    """Pearson correlation of probabilities, largest difference, k3 estimate of KL(rollout || trainer)."""
    num_unequal = None if version is None else count_unequal(logprobs_R, behaviour_R)
    if not len(logprobs_R):
        return Parity(
            correlation=math.nan,
            max_dp=math.nan,
            mean_kl=math.nan,
            num_tokens=0,
            num_unequal=num_unequal,
            version=version,
        )
    ours_R, theirs_R = logprobs_R.double(), behaviour_R.double()
    difference_R = ours_R - theirs_R
    return Parity(
        correlation=_correlation(ours_R.exp(), theirs_R.exp()),
        max_dp=float((ours_R.exp() - theirs_R.exp()).abs().max()),
        mean_kl=float((difference_R.exp() - difference_R - 1.0).mean()),
        num_tokens=len(logprobs_R),
        num_unequal=num_unequal,
        version=version,
    )


def count_unequal(logprobs_R: Tensor, behaviour_R: Tensor) -> int:
    """How many of these fp32 numbers are not the same 32 bits."""
    ours_R, theirs_R = (each_R.float().contiguous().view(torch.int32) for each_R in (logprobs_R, behaviour_R))
    return int((ours_R != theirs_R).sum())


def check_parity(parity: Parity, limits: ParitySection) -> Parity:
    """Raise when tokens are not what rollout said they were, scored by the weights that sampled them."""
    is_small = parity.num_tokens < MIN_GATED_TOKENS
    if is_small or (parity.correlation >= limits.min_correlation and parity.mean_kl <= limits.max_mean_kl):
        return parity
    raise ParityError(
        f"trainer and rollout disagree about {parity.num_tokens} tokens that version {parity.version} "
        f"sampled: correlation {parity.correlation:.5f} (parity.min_correlation = "
        f"{limits.min_correlation:g}), mean KL {parity.mean_kl:.5f} (parity.max_mean_kl = "
        f"{limits.max_mean_kl:g}), largest difference {parity.max_dp:.5f}. The run is paused before the "
        "update. Check that both sides run the same release, the same dtype and the same published weights"
    )


def check_equal(parity: Parity) -> Parity:
    """Raise when a single log-prob differs in bits. For parity mode only: there, none may."""
    if not parity.num_unequal:
        return parity
    raise ParityError(
        f"{parity.num_unequal} of {parity.num_tokens} tokens that version {parity.version} sampled have "
        "log-probs that differ in bits between rollout and trainer (largest difference of probabilities "
        f"{parity.max_dp:.3g}), and parity.require_equal is set. The run is paused before the update. "
        "Compare the numeric mode of the trainer with that of every rollout pod (in their logs and status): "
        "all need the same GPU type, torch and Triton, and parity mode. Or set parity.require_equal = false"
    )


def whole_version_mask(versions_R: Tensor, sample_R: Tensor, version: int) -> Tensor:
    """Tokens of the samples that were sampled by `version` from first to last token."""
    if not len(versions_R):
        return torch.zeros(0, dtype=torch.bool)
    foreign_N = torch.zeros(int(sample_R.max()) + 1, dtype=torch.bool)
    foreign_N[sample_R[versions_R != version]] = True
    return ~foreign_N[sample_R]


def choose_probes(packs: Sequence[Pack]) -> list[Probe]:
    """For every version, the pack with most tokens of it; most tokens first."""
    best: dict[int, Probe] = {}
    for pack in packs:
        for version in torch.unique(pack.versions_R).tolist():
            own_R = whole_version_mask(pack.versions_R, pack.sample_R, version)
            if int(own_R.sum()) > (int(best[version].own_R.sum()) if version in best else 0):
                best[version] = Probe(pack=pack, version=version, own_R=own_R)
    return sorted(best.values(), key=lambda probe: -int(probe.own_R.sum()))


def _correlation(a_R: Tensor, b_R: Tensor) -> float:
    if torch.equal(a_R, b_R):
        return 1.0
    a_R, b_R = a_R - a_R.mean(), b_R - b_R.mean()
    scale = float(a_R.norm() * b_R.norm())
    return float(a_R @ b_R) / scale if scale > 0 else math.nan
