"""The last values a rank published, in host memory: what the next version's changes are found against.

A tensor is known by the hash of its bytes, so values of an attempt that failed, of another lineage or of a
version that was taken back are never mistaken for the base's.
"""

from __future__ import annotations

from dataclasses import dataclass

from forklight_core.weights.changes import Bytes

_HELD: dict[tuple[str, int], dict[str, HeldTensor]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldTensor:
    """A tensor's bytes and their hash."""

    hash: str
    data: Bytes


def held_tensors(store: str, rank: int) -> dict[str, HeldTensor]:
    """What this process holds for a store of versions, to be read and changed."""
    return _HELD.setdefault((store, rank), {})


def forget_held(store: str) -> None:
    """Let go of all of it."""
    for key in [key for key in _HELD if key[0] == store]:
        del _HELD[key]
