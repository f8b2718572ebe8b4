"""Causal grouped-query attention: sequences of like length in padded batches.

Short ones as plain batched matmuls, gradient by hand; long ones through torch's SDPA, which never holds
all scores. Padding comes after a sequence's last token, so the causal mask alone keeps it out of real ones.
Legend: T tokens, H heads, G key heads, D head size, N sequences, L padded length, R = H / G, B = N * G.
"""

from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from forklight_kernels.gradient import Context
from forklight_kernels.packing import ChunkLayout, accumulation_dtype, chunk_layout, head_rows, longest

MAX_PLAIN_LENGTH = 256
"""Padded length up to which the scores are cheap to hold, and plain matmuls beat SDPA on a CPU."""


def softmax_attention(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, cu_seqlens: Tensor) -> Tensor:
    if len(q_THD) == 0:
        return q_THD + k_TGD.sum() + v_TGD.sum()  # no rows, but a way for their gradients
    classes = _length_classes(tuple(cu_seqlens.tolist()), cu_seqlens.device)
    if len(classes) == 1:
        return _attend(q_THD, k_TGD, v_TGD, cu_seqlens)
    parts = [
        _attend(q_THD[tokens], k_TGD[tokens], v_TGD[tokens], class_cu_seqlens)
        for tokens, class_cu_seqlens in classes
    ]
    order_T = torch.cat([tokens for tokens, _ in classes])
    return torch.cat(parts).index_select(0, torch.argsort(order_T))


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _length_classes(offsets: tuple[int, ...], device: torch.device) -> tuple[tuple[Tensor, Tensor], ...]:
    """Sequences whose lengths share a power of two (tokens, cu_seqlens): bounds padding to twofold."""
    sequences: dict[int, list[range]] = {}
    for start, end in pairwise(offsets):
        length_class = max(MAX_PLAIN_LENGTH.bit_length() - 2, (end - start - 1).bit_length())
        sequences.setdefault(length_class, []).append(range(start, end))
    classes = []
    for members in sequences.values():
        tokens = torch.tensor([token for member in members for token in member], dtype=torch.int64)
        lengths = torch.tensor([0, *(len(member) for member in members)], dtype=torch.int32)
        classes.append((tokens.to(device), lengths.cumsum(0, dtype=torch.int32).to(device)))
    return tuple(classes)


def _attend(q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, cu_seqlens: Tensor) -> Tensor:
    length = longest(cu_seqlens)
    layout = chunk_layout(cu_seqlens, max(1, length))
    q_NHLD, k_NGLD, v_NGLD = (_to_padded(x, layout) for x in (q_THD, k_TGD, v_TGD))
    if length <= MAX_PLAIN_LENGTH:
        o_NHLD: Tensor = _PlainAttention.apply(q_NHLD, k_NGLD, v_NGLD)
    else:
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


class _Context(Context):
    shapes: tuple[torch.Size, torch.Size]
    """Of the queries, and of the keys and values."""
    dtype: torch.dtype


class _PlainAttention(torch.autograd.Function):
    """Query heads that share a key head are stacked as rows of one matrix, so keys are never repeated."""

    @staticmethod
    def forward(ctx: _Context, q_NHLD: Tensor, k_NGLD: Tensor, v_NGLD: Tensor) -> Tensor:
        dtype = accumulation_dtype(v_NGLD)
        length, head_size = k_NGLD.shape[2:]
        k_BLD, v_BLD = (x.reshape(-1, length, head_size).to(dtype) for x in (k_NGLD, v_NGLD))
        q_BRD = q_NHLD.reshape(len(k_BLD), -1, head_size).to(dtype) * head_size**-0.5
        scores_BRL = torch.bmm(q_BRD, k_BLD.transpose(1, 2))
        is_future_LL = torch.ones(length, length, dtype=torch.bool, device=q_NHLD.device).triu_(1)
        scores_BRL.view(-1, length, length).masked_fill_(is_future_LL, float("-inf"))
        weights_BRL = torch.softmax(scores_BRL, dim=-1)
        o_BRD = torch.bmm(weights_BRL, v_BLD)
        ctx.save_for_backward(q_BRD, k_BLD, v_BLD, weights_BRL, o_BRD)
        ctx.shapes = q_NHLD.shape, k_NGLD.shape
        ctx.dtype = v_NGLD.dtype
        return o_BRD.view(q_NHLD.shape).to(v_NGLD.dtype)

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q_BRD, k_BLD, v_BLD, weights_BRL, o_BRD = ctx.saved_tensors
        (query_shape, key_shape), dtype = ctx.shapes, ctx.dtype
        do_BRD = gradients[0].reshape(q_BRD.shape).to(q_BRD.dtype)
        dv_BLD = torch.bmm(weights_BRL.transpose(1, 2), do_BRD)
        dscores_BRL = torch.bmm(do_BRD, v_BLD.transpose(1, 2))
        dscores_BRL.sub_((do_BRD * o_BRD).sum(dim=-1, keepdim=True)).mul_(weights_BRL)
        dq_BRD = torch.bmm(dscores_BRL, k_BLD).mul_(q_BRD.shape[-1] ** -0.5)
        dk_BLD = torch.bmm(dscores_BRL.transpose(1, 2), q_BRD)
        return (
            dq_BRD.view(query_shape).to(dtype),
            dk_BLD.view(key_shape).to(dtype),
            dv_BLD.view(key_shape).to(dtype),
        )
