"""Attention of the newest tokens against a KV cache, token by token.

Legend: T new tokens, B sequences, H heads, G key heads, L cached places, D head size.
"""

from itertools import pairwise

import torch
from torch import Tensor

from forklight_kernels.cached_attention.types import KeyPages
from forklight_kernels.packing import accumulation_dtype


def cached_attention(
    q_THD: Tensor, pages: KeyPages, lengths_B: Tensor, cu_seqlens: Tensor | None = None
) -> Tensor:
    dtype = accumulation_dtype(q_THD)
    keys_BGLD, values_BGLD = pages.per_sequence()
    repeats = q_THD.shape[1] // keys_BGLD.shape[1]
    lengths = lengths_B.tolist()
    outputs = [torch.zeros_like(q_THD[:0], dtype=dtype)]
    for sequence, (start, end) in enumerate(pairwise(_offsets(cu_seqlens, len(lengths)))):
        for token in range(start, end):
            visible = lengths[sequence] - (end - 1 - token)
            keys_HLD = keys_BGLD[sequence, :, :visible].to(dtype).repeat_interleave(repeats, dim=0)
            values_HLD = values_BGLD[sequence, :, :visible].to(dtype).repeat_interleave(repeats, dim=0)
            scores_HL = torch.einsum("hd,hld->hl", q_THD[token].to(dtype), keys_HLD) / q_THD.shape[-1] ** 0.5
            o_HD = torch.einsum("hl,hld->hd", torch.softmax(scores_HL, dim=-1), values_HLD)
            outputs.append(o_HD[None])
    return torch.cat(outputs).to(q_THD.dtype)


def append_keys(
    k_TGD: Tensor, v_TGD: Tensor, pages: KeyPages, positions_T: Tensor, cu_seqlens: Tensor | None = None
) -> None:
    positions = positions_T.tolist()
    for sequence, (start, end) in enumerate(pairwise(_offsets(cu_seqlens, len(k_TGD)))):
        for token in range(start, end):
            if not 0 <= positions[token] < pages.capacity:
                continue
            number, row = divmod(positions[token], pages.page_length)
            page = sequence if pages.table_BN is None else int(pages.table_BN[sequence, number])
            pages.keys_PGLD[page, :, row] = k_TGD[token]
            pages.values_PGLD[page, :, row] = v_TGD[token]


def _offsets(cu_seqlens: Tensor | None, num_sequences: int) -> list[int]:
    return list(range(num_sequences + 1)) if cu_seqlens is None else cu_seqlens.tolist()
