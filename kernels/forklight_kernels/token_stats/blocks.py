"""How a row of logits becomes a log-probability: the numbers of the numeric contract that both sides share.

The arithmetic on them is triton_statistics.py; README.md says it in words.
"""

from ctypes import c_float

VOCABULARY_BLOCK = 256
"""Tokens whose exponentials are summed before the blocks are merged; counted from token 0."""


def num_blocks(vocab_size: int) -> int:
    """Blocks that hold this vocabulary; the last may be short."""
    return -(-vocab_size // VOCABULARY_BLOCK)


def lanes(count: int) -> int:
    """The power of two whose tree of pairwise sums holds this many terms, padded with zeros."""
    return 1 << (count - 1).bit_length()


def levels(count: int) -> int:
    """Height of that tree."""
    return (count - 1).bit_length()


def inverse_temperature(temperature: float) -> float:
    """1 / temperature as both sides have it: the fp32 temperature, inverted in fp64, rounded to fp32."""
    return c_float(1.0 / c_float(temperature).value).value
