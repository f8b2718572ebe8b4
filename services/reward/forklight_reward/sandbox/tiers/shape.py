"""What a container or pod is made for, before it is known which job it gets; the guest enforces the rest."""

from __future__ import annotations

from dataclasses import dataclass

from forklight_reward.sandbox.spec import Limits

GUEST_MEMORY_MB = 64
KERNEL_MEMORY_MB = 192  # of gVisor's own kernel, which is counted with its container
FIRST_USER = 62000
NUM_USERS = 1000
"""Every place has another user id than those made shortly before: the kernel counts processes by user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The part of the limits that is fixed when a place is made."""

    memory_mb: int
    disk_mb: int
    pids: int


def shape_of(limits: Limits) -> Shape:
    """Of a job's limits."""
    return Shape(memory_mb=limits.memory_mb, disk_mb=limits.disk_mb, pids=limits.pids)
