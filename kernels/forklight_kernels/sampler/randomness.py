"""Counter-based uniform numbers: a pure function of (seed, position), whatever the batch."""

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = np.uint64(0x94D049BB133111EB)


def uniform_numbers(seeds_B: NDArray[np.int64], positions_B: NDArray[np.int64]) -> NDArray[np.float64]:
    """One number in [0, 1) with 53 random bits for each (seed, position)."""
    stream_B = _mixed(seeds_B.astype(np.uint64) + _GOLDEN)
    bits_B = _mixed(stream_B + positions_B.astype(np.uint64) * _GOLDEN)
    return (bits_B >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(bits_B: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014): every input bit moves every output bit."""
    bits_B = (bits_B ^ (bits_B >> np.uint64(30))) * _MULTIPLY_1
    bits_B = (bits_B ^ (bits_B >> np.uint64(27))) * _MULTIPLY_2
    return bits_B ^ (bits_B >> np.uint64(31))
