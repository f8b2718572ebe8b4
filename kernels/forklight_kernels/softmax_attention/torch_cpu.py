"""Causal grouped-query attention: padded batches of sequences of like length through torch's SDPA.

Padding comes after a sequence's last token, so the causal mask alone keeps it out of every real output.
Legend: T tokens, H heads, G key heads, D head size, N sequences, L padded length.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from forklight_kernels.packing import ChunkLayout, chunk_layout, head_rows, longest


def softmax_attention(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, cu_seqlens: Tensor) -> Tensor:
    layout = chunk_layout(cu_seqlens, longest(cu_seqlens))
    q_NHLD, k_NGLD, v_NGLD = (_to_padded(x, layout) for x in (q_THD, k_TGD, v_TGD))
    o_NHLD = scaled_dot_product_attention(q_NHLD, k_NGLD, v_NGLD, is_causal=True, enable_gqa=True)
    return _to_tokens(o_NHLD, layout)


def _to_padded(x_THD: Tensor, layout: ChunkLayout) -> Tensor:
    num_tokens, num_heads, head_size = x_THD.shape
    to_padded_R, _ = head_rows(layout, num_heads)
    rows = x_THD.reshape(num_tokens * num_heads, head_size).index_select(0, to_padded_R)
    return rows.view(layout.num_chunks, num_heads, layout.chunk_size, head_size)


def _to_tokens(o_NHLD: Tensor, layout: ChunkLayout) -> Tensor:
    num_heads, head_size = o_NHLD.shape[1], o_NHLD.shape[3]
    _, to_tokens_R = head_rows(layout, num_heads)
    return o_NHLD.reshape(-1, head_size).index_select(0, to_tokens_R).view(-1, num_heads, head_size)
