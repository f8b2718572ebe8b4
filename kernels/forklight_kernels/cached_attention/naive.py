"""Attention of the newest tokens against a KV cache, token by token.

Legend: T new tokens, B sequences, H heads, G key heads, L cached places, D head size.
"""

from itertools import pairwise

import torch
from torch import Tensor

from forklight_kernels.packing import accumulation_dtype


def cached_attention(
    q_THD: Tensor, keys_BGLD: Tensor, values_BGLD: Tensor, cu_seqlens: Tensor, lengths_B: Tensor
) -> Tensor:
    dtype = accumulation_dtype(q_THD)
    repeats = q_THD.shape[1] // keys_BGLD.shape[1]
    offsets, lengths = cu_seqlens.tolist(), lengths_B.tolist()
    outputs = []
    for sequence, (start, end) in enumerate(pairwise(offsets)):
        for token in range(start, end):
            visible = lengths[sequence] - (end - 1 - token)
            keys_HLD = keys_BGLD[sequence, :, :visible].to(dtype).repeat_interleave(repeats, dim=0)
            values_HLD = values_BGLD[sequence, :, :visible].to(dtype).repeat_interleave(repeats, dim=0)
            scores_HL = torch.einsum("hd,hld->hl", q_THD[token].to(dtype), keys_HLD) / q_THD.shape[-1] ** 0.5
            outputs.append(torch.einsum("hl,hld->hd", torch.softmax(scores_HL, dim=-1), values_HLD))
    return torch.stack(outputs).to(q_THD.dtype)
