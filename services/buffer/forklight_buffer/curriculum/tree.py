"""Whole-number weights with a draw and a change in logarithmic time (a Fenwick tree).

Whole, so that the order of changes leaves no trace: what was changed many times and what is built anew from
the same weights are the same to the last bit.
"""

from __future__ import annotations

from array import array

import numpy as np


class WeightTree:
    """Weights of slots 0 to n - 1. `tree[i]` is the sum of the `i & -i` weights that end with slot i - 1."""

    def __init__(self, num_slots: int, weight: int) -> None:
        self._weights = array("q", [weight]) * num_slots
        places = np.arange(num_slots + 1, dtype=np.int64)
        self._tree = array("q", ((places & -places) * weight).tobytes())
        self._top = 1 << max(0, num_slots.bit_length() - 1)
        self.total = num_slots * weight

    def __len__(self) -> int:
        return len(self._weights)

    def weight(self, slot: int) -> int:
        """Of a slot."""
        return self._weights[slot]

    def change(self, slot: int, weight: int) -> None:
        """Give a slot another weight."""
        more = weight - self._weights[slot]
        if not more:
            return
        self._weights[slot] = weight
        self.total += more
        tree, place, end = self._tree, slot + 1, len(self._tree)
        while place < end:
            tree[place] += more
            place += place & -place

    def find(self, target: int) -> tuple[int, int]:
        """The slot at a place from 0 to total - 1, when slots lie end to end as long as their weights, and
        how far into it the place is.
        """
        tree, end = self._tree, len(self._tree)
        before, step = 0, self._top
        while step:
            place = before + step
            if place < end and tree[place] <= target:
                target -= tree[place]
                before = place
            step >>= 1
        return before, target
