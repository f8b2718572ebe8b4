"""Causal grouped-query softmax attention over packed sequences (training and a first prefill)."""

from torch import Tensor

from forklight_kernels.backend import Backend, backend_for
from forklight_kernels.packing import sequence_offsets
from forklight_kernels.softmax_attention import naive, torch_cpu
from forklight_kernels.softmax_attention.request import check_heads


def softmax_attention(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, cu_seqlens: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v inside each sequence, causal, [T, H, D]. Differentiable in q, k, v."""
    check_heads(q_THD, k_TGD, v_TGD)
    sequence_offsets(cu_seqlens, len(q_THD))
    backend = backend_for(q_THD)
    if backend is Backend.TRITON:
        from forklight_kernels.softmax_attention import triton_gpu

        return triton_gpu.softmax_attention(q_THD, k_TGD, v_TGD, cu_seqlens)
    if backend is Backend.NAIVE:
        return naive.softmax_attention(q_THD, k_TGD, v_TGD, cu_seqlens)
    return torch_cpu.softmax_attention(q_THD, k_TGD, v_TGD, cu_seqlens)


__all__ = ["softmax_attention"]
