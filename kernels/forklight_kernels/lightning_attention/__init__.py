"""Lightning attention over packed sequences: o_t = q_t S_t, S_t = exp(-s) S_{t-1} + k_t^T v_t."""

import torch
from torch import Tensor

from forklight_kernels.backend import TRITON_DTYPES, Backend, backend_for
from forklight_kernels.checks import (
    require,
    require_dims,
    require_dtype,
    require_head_size,
    require_same,
    require_shape,
)
from forklight_kernels.lightning_attention import naive, torch_cpu
from forklight_kernels.lightning_attention.projection import split_projection
from forklight_kernels.lightning_attention.types import LightningForm
from forklight_kernels.packing import sequence_offsets


def lightning_attention(
    q_THD: Tensor,
    k_THD: Tensor,
    v_THD: Tensor,
    slopes_H: Tensor,
    cu_seqlens: Tensor,
    form: LightningForm = LightningForm(),  # noqa: B008  # frozen
) -> tuple[Tensor, Tensor]:
    """Output [T, H, D] and states [N, H, D, D] (fp32). Differentiable in q, k, v and the initial state."""
    qkv = (q_THD, k_THD, v_THD)
    _check(qkv, slopes_H, cu_seqlens, form.initial_state)
    backend = backend_for(v_THD)
    if backend is Backend.NAIVE:
        return naive.lightning_attention(qkv, slopes_H, cu_seqlens, form)
    if backend is Backend.TRITON and len(v_THD) > 0:
        _check_for_triton(qkv, slopes_H, form.initial_state)
        from forklight_kernels.lightning_attention import triton_gpu

        return triton_gpu.lightning_attention(qkv, slopes_H, sequence_offsets(cu_seqlens, len(v_THD)), form)
    return torch_cpu.lightning_attention(qkv, slopes_H, cu_seqlens, form)


def _check(
    qkv: tuple[Tensor, Tensor, Tensor], slopes_H: Tensor, cu_seqlens: Tensor, initial_state: Tensor | None
) -> None:
    q_THD, k_THD, v_THD = qkv
    require_dims("q_THD", q_THD, 3, "[T, H, D]")
    require_same(q_THD=q_THD, k_THD=k_THD, v_THD=v_THD)
    require_shape("k_THD", k_THD, tuple(q_THD.shape), "q_THD's shape")
    require_shape("v_THD", v_THD, tuple(q_THD.shape), "q_THD's shape")
    num_tokens, num_heads, head_size = q_THD.shape
    require_shape("slopes_H", slopes_H, (num_heads,), "q_THD's heads")
    require_dims("cu_seqlens", cu_seqlens, 1, "[N + 1]")
    offsets = sequence_offsets(cu_seqlens, num_tokens)
    if initial_state is not None:
        shape = (len(offsets) - 1, num_heads, head_size, head_size)
        require_shape("initial_state", initial_state, shape, "cu_seqlens and q_THD")


def _check_for_triton(
    qkv: tuple[Tensor, Tensor, Tensor], slopes_H: Tensor, initial_state: Tensor | None
) -> None:
    q_THD = qkv[0]
    require_dtype("q_THD", q_THD, TRITON_DTYPES)
    require_head_size("q_THD", q_THD)
    require(slopes_H.device == q_THD.device, f"slopes_H is on {slopes_H.device} and q_THD on {q_THD.device}")
    if initial_state is not None:
        require_dtype("initial_state", initial_state, (torch.float32,))
        require(
            initial_state.device == q_THD.device,
            f"initial_state is on {initial_state.device} and q_THD on {q_THD.device}",
        )


__all__ = ["LightningForm", "lightning_attention", "split_projection"]
