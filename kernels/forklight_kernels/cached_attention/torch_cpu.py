"""Attention of the newest tokens against a KV cache: one masked batch over all sequences.

Legend: T new tokens, B sequences, Q padded new tokens a sequence, H heads, G key heads, L cached places,
D head size, R = (H / G) * Q query rows that share a key head.
"""

import torch
from torch import Tensor

from forklight_kernels.cached_attention.types import KeyPages
from forklight_kernels.packing import accumulation_dtype, chunk_layout, longest


def cached_attention(
    q_THD: Tensor, pages: KeyPages, lengths_B: Tensor, cu_seqlens: Tensor | None = None
) -> Tensor:
    keys_BGLD, values_BGLD = pages.per_sequence()
    if cu_seqlens is None:
        place_L = torch.arange(keys_BGLD.shape[2], device=lengths_B.device)
        is_hidden_B11L = (place_L >= lengths_B[:, None])[:, None, None, :]
        o_BHD = _attend(q_THD[:, :, None], keys_BGLD, values_BGLD, is_hidden_B11L).flatten(1, 2)
        return o_BHD.masked_fill_((lengths_B == 0)[:, None, None], 0)
    layout = chunk_layout(cu_seqlens, longest(cu_seqlens))
    q_BHQD = q_THD[layout.source_MC[layout.place_N]].transpose(1, 2)
    is_hidden_B1QL = _hidden_keys(cu_seqlens, lengths_B, layout.chunk_size, keys_BGLD.shape[2])
    o_BHQD = _attend(q_BHQD, keys_BGLD, values_BGLD, is_hidden_B1QL)
    o_BQHD = o_BHQD.index_select(0, layout.order_N).transpose(1, 2)
    return o_BQHD.flatten(0, 1).index_select(0, layout.target_T)


def append_keys(
    k_TGD: Tensor, v_TGD: Tensor, pages: KeyPages, positions_T: Tensor, cu_seqlens: Tensor | None = None
) -> None:
    sequence_T = torch.arange(len(k_TGD), device=k_TGD.device)
    if cu_seqlens is not None:
        sequence_T = torch.searchsorted(cu_seqlens, sequence_T, right=True) - 1
    is_inside_T = (positions_T >= 0) & (positions_T < pages.capacity)
    if not bool(is_inside_T.all()):
        k_TGD, v_TGD, positions_T = k_TGD[is_inside_T], v_TGD[is_inside_T], positions_T[is_inside_T]
        sequence_T = sequence_T[is_inside_T]
    page_T, row_T = sequence_T, positions_T
    if pages.table_BN is not None:
        page_T = pages.table_BN[sequence_T, positions_T // pages.page_length]
        row_T = positions_T % pages.page_length
    pages.keys_PGLD[page_T, :, row_T] = k_TGD
    pages.values_PGLD[page_T, :, row_T] = v_TGD


def _attend(q_BHQD: Tensor, keys_BGLD: Tensor, values_BGLD: Tensor, is_hidden: Tensor) -> Tensor:
    num_sequences, num_heads, num_places, head_size = q_BHQD.shape
    dtype, num_key_heads = accumulation_dtype(q_BHQD), keys_BGLD.shape[1]
    q_BGRD = (q_BHQD.to(dtype) * head_size**-0.5).reshape(num_sequences, num_key_heads, -1, head_size)
    scores_BGRL = torch.matmul(q_BGRD, keys_BGLD.to(dtype).transpose(2, 3))
    scores_BGRL.view(num_sequences, num_heads, num_places, -1).masked_fill_(is_hidden, float("-inf"))
    o_BGRD = torch.matmul(torch.softmax(scores_BGRL, dim=-1), values_BGLD.to(dtype))
    return o_BGRD.view(q_BHQD.shape).to(q_BHQD.dtype)


def _hidden_keys(cu_seqlens: Tensor, lengths_B: Tensor, num_places: int, num_keys: int) -> Tensor:
    """[B, 1, Q, L]: cached places that a query must not see. Padding queries see what the last one sees."""
    place_L = torch.arange(num_keys, device=lengths_B.device)
    first_B = lengths_B - (cu_seqlens[1:] - cu_seqlens[:-1])
    last_visible_BQ = first_B[:, None] + torch.arange(num_places, device=lengths_B.device)
    last_visible_BQ = torch.minimum(last_visible_BQ, lengths_B[:, None] - 1)
    return place_L > last_visible_BQ[:, None, :, None]
