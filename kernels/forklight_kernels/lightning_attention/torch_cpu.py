"""Lightning attention in chunks: all chunks of all packed sequences in a few batched matmuls.

Legend: T packed tokens, H heads, D head size, N sequences, M chunks, C tokens a chunk; K = M * H, W = 3 * D.
Exact gradients by hand: autograd's own tape over these ops writes about twice the memory.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from forklight_kernels.gradient import needs_gradient
from forklight_kernels.heads import joined_heads, split_heads
from forklight_kernels.packing import ChunkLayout, accumulation_dtype, chunk_layout, head_rows, longest

MAX_CHUNK = 64
"""Inside a chunk the work grows with C * C, between chunks with D * D; 64 is the kernels' common grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """How tokens lie in chunks, and the powers of exp(-slope) between them; all <= 1, so nothing overflows."""

    layout: ChunkLayout
    dtype: torch.dtype
    """Of every sum, and of the states."""

    inside_HCC: Tensor
    """exp(-s (i - j)) where key j <= query i, else 0."""
    query_HC1: Tensor
    """exp(-s (i + 1)): what the state before the chunk has lost when query i reads it."""
    key_MHC1: Tensor
    """exp(-s (length - 1 - j)): what key j has lost at the chunk's end; 0 on padding."""
    chunk_MH11: Tensor
    """exp(-s length): what the state loses over the whole chunk."""


def lightning_attention(
    q_THD: Tensor,
    k_THD: Tensor,
    v_THD: Tensor,
    slopes_H: Tensor,
    cu_seqlens: Tensor,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    layout = chunk_layout(cu_seqlens, _chunk_size(longest(cu_seqlens)))
    if needs_gradient(q_THD, k_THD, v_THD, initial_state):
        o_THD, final_state = _ChunkedLightning.apply(q_THD, k_THD, v_THD, slopes_H, layout, initial_state)
        return o_THD, final_state
    return _forward((q_THD, k_THD, v_THD), slopes_H, layout, initial_state)[:2]


def _chunk_size(longest_sequence: int) -> int:
    return min(MAX_CHUNK, max(8, -(-longest_sequence // 8) * 8))


class _ChunkedLightning(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        q_THD: Tensor,
        k_THD: Tensor,
        v_THD: Tensor,
        slopes_H: Tensor,
        layout: ChunkLayout,
        initial_state: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        o_THD, final_NHDD, kept = _forward((q_THD, k_THD, v_THD), slopes_H, layout, initial_state)
        ctx.save_for_backward(kept.qkv_KCW, kept.scores_KCC, kept.before_KDD)
        ctx.decay, ctx.layout, ctx.dtype = kept.decay, layout, v_THD.dtype  # type: ignore[attr-defined]
        ctx.has_initial_state = initial_state is not None  # type: ignore[attr-defined]
        ctx.set_materialize_grads(False)
        return o_THD, final_NHDD

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        qkv_KCW, scores_KCC, before_KDD = ctx.saved_tensors  # type: ignore[attr-defined]
        decay, layout, dtype = ctx.decay, ctx.layout, ctx.dtype  # type: ignore[attr-defined]
        q_KCD, k_KCD, v_KCD = qkv_KCW.chunk(3, dim=-1)
        do_KCD = _output_gradient(gradients[0], layout, q_KCD)
        dscores_KCC = _decayed(torch.bmm(do_KCD, v_KCD.transpose(1, 2)), decay)
        dq_KCD = torch.bmm(dscores_KCC, k_KCD)
        dk_KCD = torch.bmm(dscores_KCC.transpose(1, 2), q_KCD)
        dv_KCD = torch.bmm(scores_KCC.transpose(1, 2), do_KCD)
        dinitial = None
        if before_KDD is not None or gradients[1] is not None:
            kept = _Kept(qkv_KCW=qkv_KCW, scores_KCC=scores_KCC, before_KDD=before_KDD, decay=decay)
            dinitial = _add_state_gradients((dq_KCD, dk_KCD, dv_KCD), kept, layout, do_KCD, gradients[1])
        dq, dk, dv = _qkv_to_tokens((dq_KCD, dk_KCD, dv_KCD), layout, dtype)
        return dq, dk, dv, None, None, dinitial if ctx.has_initial_state else None  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """What the backward pass needs of the forward pass."""

    qkv_KCW: Tensor
    scores_KCC: Tensor
    before_KDD: Tensor | None
    """The state before each chunk; None where every one is zero."""
    decay: _Decay


def _forward(
    qkv: tuple[Tensor, Tensor, Tensor], slopes_H: Tensor, layout: ChunkLayout, initial_state: Tensor | None
) -> tuple[Tensor, Tensor, _Kept]:
    dtype = accumulation_dtype(qkv[2])
    qkv_KCW = _to_chunks(joined_heads(*qkv), layout, dtype)
    q_KCD, k_KCD, v_KCD = qkv_KCW.chunk(3, dim=-1)
    decay = _decay_powers(slopes_H.to(dtype), layout)
    scores_KCC = _decayed(torch.bmm(q_KCD, k_KCD.transpose(1, 2)), decay)
    before_KDD, final_NHDD = _scan_states(k_KCD, v_KCD, decay, layout, initial_state)
    o_KCD = torch.bmm(scores_KCC, v_KCD)
    if before_KDD is not None:
        o_KCD.baddbmm_(_weighted(q_KCD, decay.query_HC1, layout), before_KDD)
    kept = _Kept(qkv_KCW=qkv_KCW, scores_KCC=scores_KCC, before_KDD=before_KDD, decay=decay)
    return _to_tokens(o_KCD, layout, qkv[2].dtype), final_NHDD, kept


def _add_state_gradients(
    dqkv: tuple[Tensor, Tensor, Tensor],
    kept: _Kept,
    layout: ChunkLayout,
    do_KCD: Tensor,
    dfinal_NHDD: Tensor | None,
) -> Tensor:
    """Add to dq, dk, dv what flows through the states; return the gradient of the initial states."""
    dq_KCD, dk_KCD, dv_KCD = dqkv
    q_KCD, k_KCD, v_KCD = kept.qkv_KCW.chunk(3, dim=-1)
    decay, before_KDD = kept.decay, kept.before_KDD
    dbefore_KDD = None
    if before_KDD is not None:
        dq_KCD += _weighted(torch.bmm(do_KCD, before_KDD.transpose(1, 2)), decay.query_HC1, layout)
        dbefore_KDD = torch.bmm(_weighted(q_KCD, decay.query_HC1, layout).transpose(1, 2), do_KCD)
    dupdate_KDD, dinitial = _scan_states_backward(dbefore_KDD, q_KCD, decay, layout, dfinal_NHDD)
    dk_KCD += _weighted(torch.bmm(v_KCD, dupdate_KDD.transpose(1, 2)), decay.key_MHC1, layout)
    dv_KCD += torch.bmm(_weighted(k_KCD, decay.key_MHC1, layout), dupdate_KDD)
    return dinitial


def _decay_powers(slopes_H: Tensor, layout: ChunkLayout) -> _Decay:
    place_C = torch.arange(layout.chunk_size, device=slopes_H.device)
    distance_CC = place_C[:, None] - place_C[None, :]
    inside_HCC = torch.exp(-slopes_H[:, None, None] * distance_CC.clamp(min=0)).tril_()
    query_HC = torch.exp(-slopes_H[:, None] * (place_C + 1))
    to_end_MC = layout.lengths_M[:, None] - 1 - place_C
    key_MHC = torch.exp(-slopes_H[None, :, None] * to_end_MC.clamp(min=0)[:, None, :])
    key_MHC.mul_((to_end_MC >= 0)[:, None, :])
    chunk_MH = torch.exp(-slopes_H[None, :] * layout.lengths_M[:, None])
    return _Decay(
        inside_HCC=inside_HCC,
        query_HC1=query_HC[:, :, None],
        key_MHC1=key_MHC[:, :, :, None],
        chunk_MH11=chunk_MH[:, :, None, None],
    )


def _to_chunks(x_THD: Tensor, layout: ChunkLayout, dtype: torch.dtype) -> Tensor:
    num_tokens, num_heads, head_size = x_THD.shape
    to_chunks_R, _ = head_rows(layout, num_heads)
    rows = x_THD.reshape(num_tokens * num_heads, head_size).index_select(0, to_chunks_R)
    return rows.view(-1, layout.chunk_size, head_size).to(dtype)


def _output_gradient(do_THD: Tensor | None, layout: ChunkLayout, like_KCD: Tensor) -> Tensor:
    """As _to_chunks, but zero on padding: a repeated token must not receive its gradient twice."""
    if do_THD is None:
        return torch.zeros_like(like_KCD, memory_format=torch.contiguous_format)
    do_KCD = _to_chunks(do_THD, layout, like_KCD.dtype)
    if layout.is_padded:
        is_valid_MC = torch.arange(layout.chunk_size, device=do_KCD.device) < layout.lengths_M[:, None]
        _chunks_by_head(do_KCD, layout).mul_(is_valid_MC[:, None, :, None])
    return do_KCD


def _qkv_to_tokens(
    parts_KCD: tuple[Tensor, Tensor, Tensor], layout: ChunkLayout, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Views of one tensor [T, H, 3 * D], so that the projection's backward pass need not join them."""
    head_size = parts_KCD[0].shape[2]
    joined_KCW = parts_KCD[0].new_empty(*parts_KCD[0].shape[:2], 3 * head_size)
    for number, part_KCD in enumerate(parts_KCD):
        joined_KCW[..., number * head_size : (number + 1) * head_size] = part_KCD
    return split_heads(_to_tokens(joined_KCW, layout, dtype), 3)


def _to_tokens(x_KCD: Tensor, layout: ChunkLayout, dtype: torch.dtype) -> Tensor:
    num_heads = len(x_KCD) // max(1, layout.num_chunks)
    _, to_tokens_R = head_rows(layout, num_heads)
    rows = x_KCD.reshape(-1, x_KCD.shape[-1]).index_select(0, to_tokens_R)
    return rows.view(-1, num_heads, x_KCD.shape[-1]).to(dtype)


def _chunks_by_head(x_KAB: Tensor, layout: ChunkLayout) -> Tensor:
    return x_KAB.unflatten(0, (layout.num_chunks, -1))


def _decayed(scores_KCC: Tensor, decay: _Decay) -> Tensor:
    """In place: scores times exp(-s (i - j)), and zero above the diagonal."""
    num_heads, chunk_size, _ = decay.inside_HCC.shape
    scores_KCC.view(-1, num_heads, chunk_size, chunk_size).mul_(decay.inside_HCC)
    return scores_KCC


def _weighted(x_KCD: Tensor, weights: Tensor, layout: ChunkLayout) -> Tensor:
    return (_chunks_by_head(x_KCD, layout) * weights).flatten(0, 1)


def _scan_states(
    k_KCD: Tensor, v_KCD: Tensor, decay: _Decay, layout: ChunkLayout, initial_state: Tensor | None
) -> tuple[Tensor | None, Tensor]:
    """The state before each chunk (None where all are zero) and after each sequence."""
    update_MHDD = _chunks_by_head(
        torch.bmm(_weighted(k_KCD, decay.key_MHC1, layout).transpose(1, 2), v_KCD), layout
    )
    state_NHDD = _sorted_initial_state(update_MHDD, layout, initial_state)
    if initial_state is None and len(layout.rank_sizes) == 1:
        state_NHDD[: layout.num_chunks] = update_MHDD
        return None, state_NHDD.index_select(0, layout.place_N)
    before_MHDD = torch.empty_like(update_MHDD)
    start = 0
    for size in layout.rank_sizes:
        rank = slice(start, start + size)
        before_MHDD[rank] = state_NHDD[:size]
        state_NHDD[:size].mul_(decay.chunk_MH11[rank]).add_(update_MHDD[rank])
        start += size
    return before_MHDD.flatten(0, 1), state_NHDD.index_select(0, layout.place_N)


def _sorted_initial_state(update_MHDD: Tensor, layout: ChunkLayout, initial_state: Tensor | None) -> Tensor:
    if initial_state is not None:
        return initial_state.to(update_MHDD.dtype).index_select(0, layout.order_N)
    return update_MHDD.new_zeros(len(layout.order_N), *update_MHDD.shape[1:])


def _scan_states_backward(
    dbefore_KDD: Tensor | None, like: Tensor, decay: _Decay, layout: ChunkLayout, dfinal_NHDD: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The gradient of each chunk's state update, and of the initial states."""
    num_heads, head_size = decay.query_HC1.shape[0], like.shape[-1]
    if dfinal_NHDD is None:
        dstate_NHDD = like.new_zeros(len(layout.order_N), num_heads, head_size, head_size)
    else:
        dstate_NHDD = dfinal_NHDD.index_select(0, layout.order_N)
    if dbefore_KDD is None:
        return dstate_NHDD[: layout.num_chunks].flatten(0, 1), dstate_NHDD
    dbefore_MHDD = _chunks_by_head(dbefore_KDD, layout)
    dupdate_MHDD = torch.empty_like(dbefore_MHDD)
    end = layout.num_chunks
    for size in reversed(layout.rank_sizes):
        rank = slice(end - size, end)
        dupdate_MHDD[rank] = dstate_NHDD[:size]
        dstate_NHDD[:size].mul_(decay.chunk_MH11[rank]).add_(dbefore_MHDD[rank])
        end -= size
    return dupdate_MHDD.flatten(0, 1), dstate_NHDD.index_select(0, layout.place_N)
