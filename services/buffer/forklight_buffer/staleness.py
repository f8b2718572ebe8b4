"""Admission: may another group be opened? Pure arithmetic on durable state, so the bound survives every
restart.

The inequality is per group: what is trained, leased, ready and open must stay below what the trainer may
consume until a sample opened now would be more than `max_staleness` versions old.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from forklight_buffer.live import Standing
from forklight_buffer.records import BYTES_PER_TOKEN
from forklight_core.runfile import RunFile


class Refusal(StrEnum):
    """Why no further group is opened now."""

    STALENESS = "buffer.max_staleness"
    GROUPS = "buffer.max_open_groups"
    TOKENS = "buffer.max_open_tokens"
    BYTES = "buffer.max_open_bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of the run file."""

    max_staleness: int
    groups_per_step: int
    updates_per_version: int
    max_open_groups: int
    max_open_tokens: int
    max_open_bytes: int
    group_tokens: int

    @property
    def group_bytes(self) -> int:
        """What a group is expected to take at most."""
        return self.group_tokens * BYTES_PER_TOKEN


def limits_of(run_file: RunFile, window: int) -> Limits:
    """The bounds a run file sets, for groups of a length window."""
    return Limits(
        max_staleness=run_file.buffer.max_staleness,
        groups_per_step=run_file.trainer.groups_per_step,
        updates_per_version=run_file.trainer.updates_per_version,
        max_open_groups=run_file.buffer.max_open_groups,
        max_open_tokens=run_file.buffer.max_open_tokens,
        max_open_bytes=run_file.buffer.max_open_bytes,
        group_tokens=run_file.sampling.group_size * window,
    )


def staleness_capacity(standing: Standing, limits: Limits) -> int:
    """Groups that may still be opened under the staleness bound; negative after a version was taken back."""
    allowed = (
        (limits.max_staleness + standing.version + 1) * limits.groups_per_step * limits.updates_per_version
    )
    trained = standing.step * limits.groups_per_step
    return allowed - trained - standing.leased_groups - standing.ready_groups - standing.open_groups


def find_refusal(standing: Standing, limits: Limits) -> Refusal | None:
    """The first bound another training group would break."""
    if staleness_capacity(standing, limits) <= 0:
        return Refusal.STALENESS
    if standing.open_groups >= limits.max_open_groups:
        return Refusal.GROUPS
    if standing.held_tokens + limits.group_tokens > limits.max_open_tokens:
        return Refusal.TOKENS
    if standing.held_bytes + limits.group_bytes > limits.max_open_bytes:
        return Refusal.BYTES
    return None


def with_another_group(standing: Standing, limits: Limits) -> Standing:
    """How things stand after opening one."""
    return replace(
        standing,
        open_groups=standing.open_groups + 1,
        held_tokens=standing.held_tokens + limits.group_tokens,
        held_bytes=standing.held_bytes + limits.group_bytes,
    )


def count_admitted(standing: Standing, limits: Limits, *, most: int) -> int:
    """How many groups may be opened now."""
    for admitted in range(most):
        if find_refusal(standing, limits) is not None:
            return admitted
        standing = with_another_group(standing, limits)
    return most


def find_dead_end(standing: Standing, limits: Limits) -> str:
    """Why no batch can ever come about with these bounds; empty when one can."""
    refusal = find_refusal(standing, limits)
    if refusal not in (Refusal.TOKENS, Refusal.BYTES):
        return ""
    if standing.open_groups or standing.leased_groups or standing.evaluating_groups:
        return ""
    if standing.ready_groups >= limits.groups_per_step:
        return ""
    unit, needed, allowed = (
        ("tokens", limits.group_tokens, limits.max_open_tokens)
        if refusal is Refusal.TOKENS
        else ("bytes", limits.group_bytes, limits.max_open_bytes)
    )
    held = standing.held_tokens if refusal is Refusal.TOKENS else standing.held_bytes
    return (
        f"one group reserves {needed} {unit} (sampling.group_size x the window of {standing.window}), "
        f"{held} are held by {standing.ready_groups} ready groups of the {limits.groups_per_step} a step "
        f"needs, and "
        f"{refusal} allows {allowed}: raise {refusal}, then start the buffer again or resume the run"
    )
