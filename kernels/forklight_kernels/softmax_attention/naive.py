"""Causal grouped-query attention, one by one. Legend: T tokens, H heads, G key heads, D head size."""

from itertools import pairwise

import torch
from torch import Tensor

from forklight_kernels.packing import accumulation_dtype


def softmax_attention(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, cu_seqlens: Tensor) -> Tensor:
    dtype = accumulation_dtype(v_TGD)
    repeats = q_THD.shape[1] // k_TGD.shape[1]
    offsets = cu_seqlens.tolist()
    outputs = []
    for start, end in pairwise(offsets):
        q_LHD = q_THD[start:end].to(dtype)
        k_LHD, v_LHD = (x[start:end].to(dtype).repeat_interleave(repeats, dim=1) for x in (k_TGD, v_TGD))
        scores_HLL = torch.einsum("ihd,jhd->hij", q_LHD, k_LHD) / q_THD.shape[-1] ** 0.5
        is_future_LL = torch.ones(end - start, end - start, dtype=torch.bool, device=q_THD.device).triu(1)
        weights_HLL = torch.softmax(scores_HLL.masked_fill(is_future_LL, float("-inf")), dim=-1)
        outputs.append(torch.einsum("hij,jhd->ihd", weights_HLL, v_LHD))
    return torch.cat(outputs).to(v_TGD.dtype)
