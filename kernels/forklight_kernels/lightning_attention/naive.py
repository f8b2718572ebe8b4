"""Lightning attention as the recurrence says it, token by token. The truth the fast paths are held to.

Legend: T packed tokens, H heads, D head size, N sequences.
"""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import silu

from forklight_kernels.lightning_attention.chunks import MAX_CHUNK
from forklight_kernels.lightning_attention.types import LightningForm
from forklight_kernels.packing import accumulation_dtype


def lightning_attention(
    qkv: tuple[Tensor, Tensor, Tensor], slopes_H: Tensor, cu_seqlens: Tensor, form: LightningForm
) -> tuple[Tensor, Tensor]:
    v_THD, dtype = qkv[2], accumulation_dtype(qkv[2])
    wide = [(silu(part) if form.applies_silu else part).to(dtype) for part in qkv]
    decay_H11 = torch.exp(-slopes_H.to(dtype))[:, None, None]
    outputs, states = [], []
    for sequence, (start, end) in enumerate(pairwise(cu_seqlens.tolist())):
        state_HDD = _first_state(form.initial_state, sequence, v_THD, dtype)
        kept_HDD = state_HDD
        for token in range(start, end):
            q_HD, k_HD, v_HD = (part[token] for part in wide)
            state_HDD = decay_H11 * state_HDD + k_HD[:, :, None] * v_HD[:, None, :]
            outputs.append(torch.einsum("hk,hkv->hv", q_HD, state_HDD))
            if (token + 1 - start) % MAX_CHUNK == 0:
                kept_HDD = state_HDD
        states.append(kept_HDD.detach() if form.keeps_open_chunk else state_HDD)
    o_THD = torch.stack(outputs) if outputs else torch.zeros_like(v_THD, dtype=dtype)
    return o_THD.to(v_THD.dtype), torch.stack(states)


def _first_state(initial_state: Tensor | None, sequence: int, v_THD: Tensor, dtype: torch.dtype) -> Tensor:
    if initial_state is not None:
        return initial_state[sequence].to(dtype)
    _, num_heads, head_size = v_THD.shape
    return torch.zeros(num_heads, head_size, head_size, dtype=dtype, device=v_THD.device)
