"""The random bits of `randomness.py`, on the device: the same function of (seed, position), bit for bit."""

import triton
import triton.language as tl

GOLDEN = tl.constexpr(0x9E3779B97F4A7C15)
MULTIPLY_1 = tl.constexpr(0xBF58476D1CE4E5B9)
MULTIPLY_2 = tl.constexpr(0x94D049BB133111EB)


@triton.jit
def _mixed(bits):
    bits = (bits ^ (bits >> 30)) * MULTIPLY_1
    bits = (bits ^ (bits >> 27)) * MULTIPLY_2
    return bits ^ (bits >> 31)


@triton.jit
def uniform_bits(seed, position):
    """uint64: the 53 bits of `uniform_numbers`, then zeros. u = bits / 2^64, exactly."""
    stream = _mixed(seed.to(tl.uint64) + GOLDEN)
    bits = _mixed(stream + position.to(tl.uint64) * GOLDEN)
    return (bits >> 11) << 11


@triton.jit
def place_in(bits, total):
    """floor(u * total) of an int64 total: the point of [0, total) that u stands for."""
    return tl.umulhi(bits, total.to(tl.uint64)).to(tl.int64)
