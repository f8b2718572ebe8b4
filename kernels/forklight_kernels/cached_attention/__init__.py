"""Grouped-query attention of new tokens against cached keys and values (decode, and a prompt in pieces)."""

from torch import Tensor

from forklight_kernels.backend import uses_naive
from forklight_kernels.cached_attention import naive, torch_cpu


def cached_attention(
    q_THD: Tensor, keys_BGLD: Tensor, values_BGLD: Tensor, cu_seqlens: Tensor, lengths_B: Tensor
) -> Tensor:
    """Output [T, H, D]. The new tokens, one or more each, are the last of a sequence's `lengths_B` cached."""
    if uses_naive():
        return naive.cached_attention(q_THD, keys_BGLD, values_BGLD, cu_seqlens, lengths_B)
    return torch_cpu.cached_attention(q_THD, keys_BGLD, values_BGLD, cu_seqlens, lengths_B)


__all__ = ["cached_attention"]
