"""Lightning attention in chunks: all chunks of all packed sequences in a few batched matmuls.

Exact gradients by hand: autograd's own tape over these operations holds about twice the memory.
Legend: T packed tokens, H heads, D head size, N sequences, M chunks, C tokens a chunk, K = M * H, W = 3 * D.
"""

import torch
from torch import Tensor

from forklight_kernels.gradient import Context, needs_gradient
from forklight_kernels.heads import joined_heads, split_heads
from forklight_kernels.lightning_attention.chunks import (
    ChunkPlan,
    gradient_to_chunks,
    leaving_open_chunks,
    plan_chunks,
    scan_states,
    scan_states_backward,
    to_chunks,
    to_tokens,
)
from forklight_kernels.lightning_attention.projection import activated
from forklight_kernels.lightning_attention.types import LightningForm
from forklight_kernels.packing import accumulation_dtype

Kept = tuple[Tensor, Tensor, Tensor | None]
"""q|k|v in chunks [K, C, W], decayed scores [K, C, C], states before chunks [K, D, D] (None: all zero)."""


def lightning_attention(
    qkv: tuple[Tensor, Tensor, Tensor], slopes_H: Tensor, cu_seqlens: Tensor, form: LightningForm
) -> tuple[Tensor, Tensor]:
    q_THD, k_THD, v_THD = activated(qkv) if form.applies_silu else qkv
    plan = plan_chunks(cu_seqlens, slopes_H, accumulation_dtype(v_THD))
    if form.keeps_open_chunk:
        plan = leaving_open_chunks(plan)
    if needs_gradient(q_THD, k_THD, v_THD, form.initial_state):
        o_THD, final_NHDD = _ChunkedLightning.apply(q_THD, k_THD, v_THD, plan, form.initial_state)
        return o_THD, final_NHDD.detach() if form.keeps_open_chunk else final_NHDD
    return _forward((q_THD, k_THD, v_THD), plan, form.initial_state)[:2]


class _Context(Context):
    plan: ChunkPlan
    dtype: torch.dtype
    has_initial_state: bool


class _ChunkedLightning(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        q_THD: Tensor,
        k_THD: Tensor,
        v_THD: Tensor,
        plan: ChunkPlan,
        initial_state: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        o_THD, final_NHDD, kept = _forward((q_THD, k_THD, v_THD), plan, initial_state)
        ctx.save_for_backward(*(tensor for tensor in kept if tensor is not None))
        ctx.plan, ctx.dtype, ctx.has_initial_state = plan, v_THD.dtype, initial_state is not None
        ctx.set_materialize_grads(False)
        return o_THD, final_NHDD

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        qkv_KCW, scores_KCC, *states = ctx.saved_tensors
        kept, plan = (qkv_KCW, scores_KCC, states[0] if states else None), ctx.plan
        do_THD, dfinal_NHDD = gradients
        if do_THD is None:
            do_KCD = torch.zeros_like(qkv_KCW.chunk(3, dim=-1)[2], memory_format=torch.contiguous_format)
        else:
            do_KCD = gradient_to_chunks(do_THD, plan)
        dqkv = _gradients_inside(kept, plan, do_KCD)
        dinitial = _add_gradients_between(dqkv, kept, plan, do_KCD, dfinal_NHDD)
        dq_THD, dk_THD, dv_THD = _joined_to_tokens(dqkv, plan, ctx.dtype)
        return dq_THD, dk_THD, dv_THD, None, dinitial if ctx.has_initial_state else None


def _forward(
    qkv: tuple[Tensor, Tensor, Tensor], plan: ChunkPlan, initial_state: Tensor | None
) -> tuple[Tensor, Tensor, Kept]:
    qkv_KCW = to_chunks(joined_heads(*qkv), plan)
    q_KCD, k_KCD, v_KCD = qkv_KCW.chunk(3, dim=-1)
    update_KDD = torch.bmm(plan.weighted(k_KCD, plan.key_MHC1).transpose(1, 2), v_KCD)
    before_KDD, final_NHDD = scan_states(update_KDD, plan, initial_state)
    scores_KCC = plan.decayed(torch.bmm(q_KCD, k_KCD.transpose(1, 2)))
    o_KCD = torch.bmm(scores_KCC, v_KCD)
    if before_KDD is not None:
        o_KCD.baddbmm_(plan.weighted(q_KCD, plan.query_HC1), before_KDD)
    return to_tokens(o_KCD, plan, qkv[2].dtype), final_NHDD, (qkv_KCW, scores_KCC, before_KDD)


def _gradients_inside(kept: Kept, plan: ChunkPlan, do_KCD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv of what chunks compute from their own tokens."""
    qkv_KCW, scores_KCC, _ = kept
    q_KCD, k_KCD, v_KCD = qkv_KCW.chunk(3, dim=-1)
    dscores_KCC = plan.decayed(torch.bmm(do_KCD, v_KCD.transpose(1, 2)))
    return (
        torch.bmm(dscores_KCC, k_KCD),
        torch.bmm(dscores_KCC.transpose(1, 2), q_KCD),
        torch.bmm(scores_KCC.transpose(1, 2), do_KCD),
    )


def _add_gradients_between(
    dqkv: tuple[Tensor, Tensor, Tensor],
    kept: Kept,
    plan: ChunkPlan,
    do_KCD: Tensor,
    dfinal_NHDD: Tensor | None,
) -> Tensor | None:
    """Add to dq, dk, dv what flows through the states; return the gradient of the initial states."""
    dq_KCD, dk_KCD, dv_KCD = dqkv
    qkv_KCW, _, before_KDD = kept
    if before_KDD is None and dfinal_NHDD is None:
        return None
    q_KCD, k_KCD, v_KCD = qkv_KCW.chunk(3, dim=-1)
    if before_KDD is not None:
        dq_KCD += plan.weighted(torch.bmm(do_KCD, before_KDD.transpose(1, 2)), plan.query_HC1)
    dbefore_KDD = torch.bmm(plan.weighted(q_KCD, plan.query_HC1).transpose(1, 2), do_KCD)
    dupdate_KDD, dinitial_NHDD = scan_states_backward(dbefore_KDD, plan, dfinal_NHDD)
    dk_KCD += plan.weighted(torch.bmm(v_KCD, dupdate_KDD.transpose(1, 2)), plan.key_MHC1)
    dv_KCD += torch.bmm(plan.weighted(k_KCD, plan.key_MHC1), dupdate_KDD)
    return dinitial_NHDD


def _joined_to_tokens(
    parts_KCD: tuple[Tensor, Tensor, Tensor], plan: ChunkPlan, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Views of one tensor [T, H, W], so that the projection's backward pass need not join them."""
    head_size = parts_KCD[0].shape[2]
    joined_KCW = parts_KCD[0].new_empty(*parts_KCD[0].shape[:2], 3 * head_size)
    for number, part_KCD in enumerate(parts_KCD):
        joined_KCW[..., number * head_size : (number + 1) * head_size] = part_KCD
    return split_heads(to_tokens(joined_KCW, plan, dtype), 3)
