"""The chunked form's frame: which token lies where, the powers of the decay, and the scan over states.

Legend: T packed tokens, H heads, D head size, N sequences, M chunks, C tokens a chunk, K = M * H.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from forklight_kernels.packing import ChunkLayout, chunk_layout, head_rows, longest

MAX_CHUNK = 64
"""Inside a chunk the work grows with C * C, between chunks with D * D; 64 is the kernels' common grid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkPlan:
    """How tokens lie in chunks, and the powers of exp(-slope) between them (<= 1: none overflows)."""

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

    @property
    def num_heads(self) -> int:
        return len(self.inside_HCC)

    def by_chunk(self, x_KAB: Tensor) -> Tensor:
        """[M, H, A, B]."""
        return x_KAB.view(self.layout.num_chunks, self.num_heads, x_KAB.shape[1], x_KAB.shape[2])

    def weighted(self, x_KCD: Tensor, weights: Tensor) -> Tensor:
        return (self.by_chunk(x_KCD) * weights).flatten(0, 1)

    def decayed(self, scores_KCC: Tensor) -> Tensor:
        """In place: scores times exp(-s (i - j)), and zero above the diagonal."""
        self.by_chunk(scores_KCC).mul_(self.inside_HCC)
        return scores_KCC


def plan_chunks(cu_seqlens: Tensor, slopes_H: Tensor, dtype: torch.dtype) -> ChunkPlan:
    """Chunks of 64, or shorter where every sequence is."""
    chunk_size = min(MAX_CHUNK, max(8, -(-longest(cu_seqlens) // 8) * 8))
    layout = chunk_layout(cu_seqlens, chunk_size)
    slopes_H = slopes_H.to(dtype)
    place_C = torch.arange(chunk_size, device=slopes_H.device)
    distance_CC = place_C[:, None] - place_C[None, :]
    to_end_MC = layout.lengths_M[:, None] - 1 - place_C
    key_MHC = torch.exp(-slopes_H[None, :, None] * to_end_MC.clamp(min=0)[:, None, :])
    key_MHC.mul_((to_end_MC >= 0)[:, None, :])
    return ChunkPlan(
        layout=layout,
        dtype=dtype,
        inside_HCC=torch.exp(-slopes_H[:, None, None] * distance_CC.clamp(min=0)).tril_(),
        query_HC1=torch.exp(-slopes_H[:, None] * (place_C + 1))[:, :, None],
        key_MHC1=key_MHC[:, :, :, None],
        chunk_MH11=torch.exp(-slopes_H[None, :] * layout.lengths_M[:, None])[:, :, None, None],
    )


def leaving_open_chunks(plan: ChunkPlan) -> ChunkPlan:
    """The same, but a chunk of fewer than 64 tokens does not enter the state."""
    is_whole_M111 = (plan.layout.lengths_M == MAX_CHUNK)[:, None, None, None]
    return replace(
        plan,
        key_MHC1=plan.key_MHC1 * is_whole_M111,
        chunk_MH11=torch.where(is_whole_M111, plan.chunk_MH11, 1.0),
    )


def to_chunks(x_THD: Tensor, plan: ChunkPlan) -> Tensor:
    """[K, C, D] from tokens; padding repeats a chunk's last token."""
    num_tokens, num_heads, head_size = x_THD.shape
    to_chunks_R, _ = head_rows(plan.layout, num_heads)
    rows = x_THD.reshape(num_tokens * num_heads, head_size).index_select(0, to_chunks_R)
    return rows.view(-1, plan.layout.chunk_size, head_size).to(plan.dtype)


def gradient_to_chunks(do_THD: Tensor, plan: ChunkPlan) -> Tensor:
    """As to_chunks, but zero on padding: a repeated token must not receive its gradient twice."""
    do_KCD = to_chunks(do_THD, plan)
    if plan.layout.is_padded:
        place_C = torch.arange(plan.layout.chunk_size, device=do_KCD.device)
        is_valid_MC = place_C < plan.layout.lengths_M[:, None]
        plan.by_chunk(do_KCD).mul_(is_valid_MC[:, None, :, None])
    return do_KCD


def to_tokens(x_KCD: Tensor, plan: ChunkPlan, dtype: torch.dtype) -> Tensor:
    """[T, H, D] from chunks, padding left behind."""
    _, to_tokens_R = head_rows(plan.layout, plan.num_heads)
    rows = x_KCD.reshape(-1, x_KCD.shape[-1]).index_select(0, to_tokens_R)
    return rows.view(-1, plan.num_heads, x_KCD.shape[-1]).to(dtype)


def scan_states(
    update_KDD: Tensor, plan: ChunkPlan, initial_state: Tensor | None
) -> tuple[Tensor | None, Tensor]:
    """From each chunk's update, the state before each chunk (None: all zero) and after each sequence."""
    layout, update_MHDD = plan.layout, plan.by_chunk(update_KDD)
    if initial_state is None:
        state_NHDD = update_MHDD.new_zeros(len(layout.order_N), *update_MHDD.shape[1:])
    else:
        state_NHDD = initial_state.to(plan.dtype).index_select(0, layout.order_N)
    if initial_state is None and len(layout.rank_sizes) == 1:
        state_NHDD[: layout.num_chunks] = update_MHDD
        return None, state_NHDD.index_select(0, layout.place_N)
    before_MHDD = torch.empty_like(update_MHDD)
    start = 0
    for size in layout.rank_sizes:
        rank = slice(start, start + size)
        before_MHDD[rank] = state_NHDD[:size]
        state_NHDD[:size].mul_(plan.chunk_MH11[rank]).add_(update_MHDD[rank])
        start += size
    return before_MHDD.flatten(0, 1), state_NHDD.index_select(0, layout.place_N)


def scan_states_backward(
    dbefore_KDD: Tensor, plan: ChunkPlan, dfinal_NHDD: Tensor | None
) -> tuple[Tensor, Tensor]:
    """From the gradient of the states before chunks, that of chunks' updates and of initial states."""
    layout, dbefore_MHDD = plan.layout, plan.by_chunk(dbefore_KDD)
    if dfinal_NHDD is None:
        dstate_NHDD = dbefore_MHDD.new_zeros(len(layout.order_N), *dbefore_MHDD.shape[1:])
    else:
        dstate_NHDD = dfinal_NHDD.index_select(0, layout.order_N)
    dupdate_MHDD = torch.empty_like(dbefore_MHDD)
    end = layout.num_chunks
    for size in reversed(layout.rank_sizes):
        rank = slice(end - size, end)
        dupdate_MHDD[rank] = dstate_NHDD[:size]
        dstate_NHDD[:size].mul_(plan.chunk_MH11[rank]).add_(dbefore_MHDD[rank])
        end -= size
    return dupdate_MHDD.flatten(0, 1), dstate_NHDD.index_select(0, layout.place_N)
