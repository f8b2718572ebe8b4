"""Attention of the newest tokens against a KV cache: one masked batch over all sequences.

Legend: T new tokens, B sequences, Q padded new tokens a sequence, H heads, G key heads, L cached places,
D head size, R = (H / G) * Q query rows that share a key head.
"""

import torch
from torch import Tensor

from forklight_kernels.packing import chunk_layout, longest


def cached_attention(
    q_THD: Tensor, keys_BGLD: Tensor, values_BGLD: Tensor, cu_seqlens: Tensor, lengths_B: Tensor
) -> Tensor:
    num_sequences, num_key_heads, _, head_size = keys_BGLD.shape
    is_decode = len(q_THD) == num_sequences
    layout = None if is_decode else chunk_layout(cu_seqlens, longest(cu_seqlens))
    q_BQHD = q_THD[:, None] if layout is None else q_THD[layout.source_MC[layout.place_N]]
    num_places, num_heads = q_BQHD.shape[1], q_BQHD.shape[2]
    q_BGRD = q_BQHD.transpose(1, 2).reshape(num_sequences, num_key_heads, -1, head_size)
    scores_BGRL = torch.matmul(q_BGRD * head_size**-0.5, keys_BGLD.transpose(2, 3))
    scores_BGRL.view(num_sequences, num_heads, num_places, -1).masked_fill_(
        _hidden_keys(keys_BGLD, cu_seqlens, lengths_B, num_places), float("-inf")
    )
    o_BGRD = torch.matmul(torch.softmax(scores_BGRL, dim=-1), values_BGLD)
    o_BHQD = o_BGRD.view(num_sequences, num_heads, num_places, head_size)
    if layout is None:
        return o_BHQD.squeeze(2)
    o_BQHD = o_BHQD.index_select(0, layout.order_N).transpose(1, 2)
    return o_BQHD.reshape(-1, num_heads, head_size).index_select(0, layout.target_T)


def _hidden_keys(keys_BGLD: Tensor, cu_seqlens: Tensor, lengths_B: Tensor, num_places: int) -> Tensor:
    """[B, 1, Q, L]: cached places that a query must not see. Padding queries see what the last one sees."""
    place_L = torch.arange(keys_BGLD.shape[2], device=lengths_B.device)
    if num_places == 1:
        return place_L >= lengths_B[:, None, None, None]
    first_B = lengths_B - (cu_seqlens[1:] - cu_seqlens[:-1])
    last_visible_BQ = first_B[:, None] + torch.arange(num_places, device=lengths_B.device)
    last_visible_BQ = torch.minimum(last_visible_BQ, lengths_B[:, None] - 1)
    return place_L > last_visible_BQ[:, None, :, None]
