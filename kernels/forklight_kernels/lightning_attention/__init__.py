"""Lightning attention over packed sequences: o_t = q_t S_t, S_t = exp(-s) S_{t-1} + k_t^T v_t."""

from torch import Tensor

from forklight_kernels.backend import uses_naive
from forklight_kernels.lightning_attention import naive, torch_cpu


def lightning_attention(
    q_THD: Tensor,
    k_THD: Tensor,
    v_THD: Tensor,
    slopes_H: Tensor,
    cu_seqlens: Tensor,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output [T, H, D] and final states [N, H, D, D] (fp32). Differentiable in q, k, v and initial_state."""
    if uses_naive():
        return naive.lightning_attention(q_THD, k_THD, v_THD, slopes_H, cu_seqlens, initial_state)
    return torch_cpu.lightning_attention(q_THD, k_THD, v_THD, slopes_H, cu_seqlens, initial_state)


__all__ = ["lightning_attention"]
