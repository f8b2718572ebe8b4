"""The lightning block's activation: silu over the q|k|v projection, split inside each head."""

from torch import Tensor

from forklight_kernels.backend import Backend, backend_for
from forklight_kernels.checks import require, require_dims
from forklight_kernels.silu_split import naive, torch_cpu


def silu_split(x_TW: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [T, H, D] of a projection whose heads hold q | k | v side by side. Differentiable in x."""
    require_dims("x_TW", x_TW, 2, "[T, W]")
    width = x_TW.shape[1]
    require(
        num_heads > 0 and width % (3 * num_heads) == 0,
        f"x_TW is {width} wide; expected q | k | v of {num_heads} heads, a multiple of {3 * num_heads}",
    )
    backend = backend_for(x_TW)
    if backend is Backend.NAIVE:
        return naive.silu_split(x_TW, num_heads)
    if backend is Backend.TRITON:
        from forklight_kernels.silu_split import triton_gpu

        return triton_gpu.silu_split(x_TW, num_heads)
    return torch_cpu.silu_split(x_TW, num_heads)


__all__ = ["silu_split"]
