"""How much of a response repeats what it said before. Numpy only, linear but for one sort.

Legend: R tokens of a response, G places where a stretch of STRETCH tokens begins.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

STRETCH = 16  # tokens; formulas and names come again in sound text, stretches this long seldom do
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no bit of a token is lost
SHIFT = np.uint64(31)

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.integer]
UInt64Array = npt.NDArray[np.uint64]


def mark_repeated(ids_R: IntArray) -> BoolArray:
    """True for tokens inside a stretch that the response has had before, at any distance, overlapping too."""
    repeated_R = np.zeros(len(ids_R), dtype=np.bool_)
    if len(ids_R) <= STRETCH:
        return repeated_R
    hashes_G = _hash_stretches(ids_R)
    order_G = np.argsort(hashes_G, kind="stable")
    again_G = np.zeros(len(hashes_G), dtype=np.int64)
    again_G[order_G[1:]] = hashes_G[order_G[1:]] == hashes_G[order_G[:-1]]
    # A stretch covers STRETCH tokens: count the beginnings among the last STRETCH places.
    begun_R = np.concatenate([np.cumsum(again_G), np.full(STRETCH - 1, again_G.sum())])
    ended_R = np.concatenate([np.zeros(STRETCH, dtype=np.int64), begun_R[:-STRETCH]])
    return np.asarray(begun_R > ended_R)


def _hash_stretches(ids_R: IntArray) -> UInt64Array:
    """64 bits for the STRETCH tokens from each place on; unequal ones meet once in 10^9 responses of 80K."""
    mixed_R = (ids_R.astype(np.uint64) + np.uint64(1)) * FACTOR
    mixed_R = (mixed_R ^ (mixed_R >> SHIFT)) * FACTOR
    mixed_R ^= mixed_R >> SHIFT
    num_places = len(ids_R) - STRETCH + 1
    hashes_G = np.zeros(num_places, dtype=np.uint64)
    for place in range(STRETCH):
        hashes_G = hashes_G * FACTOR + mixed_R[place : place + num_places]
    return hashes_G
