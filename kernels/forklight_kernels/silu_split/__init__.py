"""The lightning block's activation: silu over the q|k|v projection, split inside each head."""

from torch import Tensor

from forklight_kernels.backend import uses_naive
from forklight_kernels.silu_split import naive, torch_cpu


def silu_split(x_TW: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [T, H, D] of a projection whose heads hold q | k | v side by side. Differentiable in x."""
    if uses_naive():
        return naive.silu_split(x_TW, num_heads)
    return torch_cpu.silu_split(x_TW, num_heads)


__all__ = ["silu_split"]
