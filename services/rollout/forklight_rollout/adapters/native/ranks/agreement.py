"""What the processes of an engine have to agree on before it may be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from forklight_core.errors import WeightsError
from forklight_model.parity import NumericMode
from forklight_rollout.adapters.native.ranks.messages import Answer
from forklight_rollout.weights.manifest import PublishedWeights


def agree_on_mode(modes: Sequence[NumericMode]) -> NumericMode:
    """Parity mode where every process is in it, on the same hardware with the same software."""
    first = modes[0]
    for rank, mode in enumerate(modes):
        if not mode.is_parity:
            return replace(first, is_parity=False, reason=f"process {rank} of {len(modes)}: {mode.reason}")
        for name in (field.name for field in fields(mode) if field.name not in ("is_parity", "reason")):
            ours, theirs = getattr(first, name), getattr(mode, name)
            if ours != theirs:
                reason = f"{name} is {theirs} in process {rank} and {ours} in process 0"
                return replace(first, is_parity=False, reason=reason)
    return replace(first, reason=f"{first.reason}, in each of {len(modes)} processes")


def require_same_digest(weights: PublishedWeights, digest: int, answers: Sequence[Answer]) -> None:
    """WeightsError where a follower could not load its part, or has loaded something else."""
    version = f"version {weights.version} in {weights.folder}"
    for rank, answer in enumerate(answers, start=1):
        if answer.error:
            raise WeightsError(f"{version} cannot be loaded in process {rank}: {answer.error}")
        if answer.digest != digest:
            raise WeightsError(
                f"{version} changed while it was read: process 0 holds {digest:016x} of it, process {rank} "
                f"{answer.digest:016x}"
            )
