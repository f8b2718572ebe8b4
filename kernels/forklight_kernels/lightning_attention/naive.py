"""Lightning attention as the recurrence says it, token by token. The truth the fast paths are held to.

Legend: T packed tokens, H heads, D head size, N sequences.
"""

from itertools import pairwise

import torch
from torch import Tensor

from forklight_kernels.packing import accumulation_dtype


def lightning_attention(
    q_THD: Tensor,
    k_THD: Tensor,
    v_THD: Tensor,
    slopes_H: Tensor,
    cu_seqlens: Tensor,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(v_THD)
    decay_H11 = torch.exp(-slopes_H.to(dtype))[:, None, None]
    offsets = cu_seqlens.tolist()
    outputs, states = [], []
    for sequence, (start, end) in enumerate(pairwise(offsets)):
        state_HDD = _first_state(initial_state, sequence, v_THD, dtype)
        for token in range(start, end):
            q_HD, k_HD, v_HD = (x[token].to(dtype) for x in (q_THD, k_THD, v_THD))
            state_HDD = decay_H11 * state_HDD + k_HD[:, :, None] * v_HD[:, None, :]
            outputs.append(torch.einsum("hk,hkv->hv", q_HD, state_HDD))
        states.append(state_HDD)
    o_THD = torch.stack(outputs) if outputs else torch.zeros_like(v_THD, dtype=dtype)
    return o_THD.to(v_THD.dtype), torch.stack(states)


def _first_state(initial_state: Tensor | None, sequence: int, v_THD: Tensor, dtype: torch.dtype) -> Tensor:
    if initial_state is not None:
        return initial_state[sequence].to(dtype)
    _, num_heads, head_size = v_THD.shape
    return torch.zeros(num_heads, head_size, head_size, dtype=dtype, device=v_THD.device)
