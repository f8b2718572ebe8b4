"""Grouped-query attention of new tokens against cached keys and values (decode, and a prompt in pieces)."""

from torch import Tensor

from forklight_kernels.backend import Backend, backend_for
from forklight_kernels.cached_attention import naive, torch_cpu
from forklight_kernels.cached_attention.request import check_append, check_request
from forklight_kernels.cached_attention.types import KeyPages


def cached_attention(
    q_THD: Tensor, pages: KeyPages, lengths_B: Tensor, cu_seqlens: Tensor | None = None
) -> Tensor:
    """Output [T, H, D]. The new tokens are the last of a sequence's `lengths_B` cached places.

    Without `cu_seqlens` token b is the one new token of sequence b (decode).
    """
    check_request(q_THD, pages, lengths_B, cu_seqlens)
    backend = backend_for(q_THD)
    if backend is Backend.TRITON:
        from forklight_kernels.cached_attention import triton_gpu

        return triton_gpu.cached_attention(q_THD, pages, lengths_B, cu_seqlens)
    if backend is Backend.NAIVE:
        return naive.cached_attention(q_THD, pages, lengths_B, cu_seqlens)
    return torch_cpu.cached_attention(q_THD, pages, lengths_B, cu_seqlens)


def append_keys(
    k_TGD: Tensor, v_TGD: Tensor, pages: KeyPages, positions_T: Tensor, cu_seqlens: Tensor | None = None
) -> None:
    """Write new keys and values to their places, in the pages. A place outside the capacity is skipped.

    Without `cu_seqlens` token b belongs to sequence b (decode).
    """
    check_append(k_TGD, v_TGD, pages, positions_T, cu_seqlens)
    backend = backend_for(k_TGD)
    if backend is Backend.TRITON:
        from forklight_kernels.cached_attention import triton_gpu

        return triton_gpu.append_keys(k_TGD, v_TGD, pages, positions_T, cu_seqlens)
    if backend is Backend.NAIVE:
        return naive.append_keys(k_TGD, v_TGD, pages, positions_T, cu_seqlens)
    return torch_cpu.append_keys(k_TGD, v_TGD, pages, positions_T, cu_seqlens)


__all__ = ["KeyPages", "append_keys", "cached_attention"]
