"""Rotary position embedding on the first `rotary_dim` dims of each head (halves rotated, NeoX style)."""

from torch import Tensor

from forklight_kernels.backend import uses_naive
from forklight_kernels.rope import naive, torch_cpu


def rope(x_THD: Tensor, positions_T: Tensor, rotary_dim: int, theta: float) -> Tensor:
    """x with its first `rotary_dim` dims turned by position; the rest untouched. Differentiable in x."""
    if uses_naive():
        return naive.rope(x_THD, positions_T, rotary_dim, theta)
    return torch_cpu.rope(x_THD, positions_T, rotary_dim, theta)


__all__ = ["rope"]
