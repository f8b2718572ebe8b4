"""All the chance there is in a draw: a hash of the run's seed and the position that is filled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chance:
    """Two independent numbers."""

    share: float
    """From 0 to 1, 1 excluded."""
    whole: int
    """Of 128 bits."""


def chance_of(seed: int, position: int) -> Chance:
    """The same on every machine."""
    digest = hashlib.blake2b(f"curriculum/{seed}/{position}".encode(), digest_size=24).digest()
    return Chance((int.from_bytes(digest[:8], "big") >> 11) / 2**53, int.from_bytes(digest[8:], "big"))
