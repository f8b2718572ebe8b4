"""MoE routing: softmax over all experts in fp32, top-k with ties to the lowest index, renormalised to 1."""

from torch import Tensor

from forklight_kernels.backend import uses_naive
from forklight_kernels.moe_router import naive, torch_cpu


def moe_router(logits_TE: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Weights [T, K] (fp32, rows sum to 1) and experts [T, K] (int64). Differentiable in the logits."""
    if uses_naive():
        return naive.moe_router(logits_TE, top_k)
    return torch_cpu.moe_router(logits_TE, top_k)


__all__ = ["moe_router"]
