"""Attention of the newest tokens against a KV cache: one masked batch over all sequences.

Legend: T new tokens, B sequences, Q padded new tokens a sequence, H heads, G key heads, L cached places,
D head size, R = (H / G) * Q query rows that share a key head.
"""

import torch
from torch import Tensor

from forklight_kernels.packing import accumulation_dtype, chunk_layout, longest


def cached_attention(
    q_THD: Tensor, keys_BGLD: Tensor, values_BGLD: Tensor, cu_seqlens: Tensor, lengths_B: Tensor
) -> Tensor:
    if len(q_THD) == len(keys_BGLD):
        place_L = torch.arange(keys_BGLD.shape[2], device=lengths_B.device)
        is_hidden_B11L = (place_L >= lengths_B[:, None])[:, None, None, :]
        return _attend(q_THD[:, :, None], keys_BGLD, values_BGLD, is_hidden_B11L).flatten(1, 2)
    layout = chunk_layout(cu_seqlens, longest(cu_seqlens))
    q_BHQD = q_THD[layout.source_MC[layout.place_N]].transpose(1, 2)
    is_hidden_B1QL = _hidden_keys(cu_seqlens, lengths_B, layout.chunk_size, keys_BGLD.shape[2])
    o_BHQD = _attend(q_BHQD, keys_BGLD, values_BGLD, is_hidden_B1QL)
    o_BQHD = o_BHQD.index_select(0, layout.order_N).transpose(1, 2)
    return o_BQHD.flatten(0, 1).index_select(0, layout.target_T)


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
