"""Softmax attention on a GPU: launches of the forward and backward kernels, and the gradient's wrapper.

Legend: T tokens, S padded places of row statistics, H heads, G key heads, D head size.
"""

from itertools import pairwise

import torch
from torch import Tensor

from forklight_kernels.backend import TRITON_DTYPES
from forklight_kernels.checks import require_dtype, require_head_size
from forklight_kernels.gradient import Context, needs_gradient
from forklight_kernels.launch import prepare_launch
from forklight_kernels.packing import sequence_offsets
from forklight_kernels.recompute import Result, kept
from forklight_kernels.softmax_attention.blocks import ROW_SUM_COLUMNS, score_scale
from forklight_kernels.softmax_attention.triton_backward import (
    delta_kernel,
    key_gradient_kernel,
    query_gradient_kernel,
)
from forklight_kernels.softmax_attention.triton_forward import attend_rows_kernel
from forklight_kernels.softmax_attention.triton_tiles import (
    TileOrder,
    Tuning,
    choose_tuning,
    describable,
    describe_keys,
    describe_rows,
    describe_stats,
    padded_length,
    row_tiles,
)


def softmax_attention(
    q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, cu_seqlens: Tensor, tuning: Tuning | None = None
) -> Tensor:
    """The op; `tuning` replaces the table's choice (benchmarks, tests)."""
    require_dtype("q_THD", q_THD, TRITON_DTYPES)
    require_head_size("q_THD", q_THD)
    offsets = sequence_offsets(cu_seqlens, len(q_THD))
    if tuning is None:
        tuning = choose_tuning(q_THD.dtype, max((b - a for a, b in pairwise(offsets)), default=0))
    if needs_gradient(q_THD, k_TGD, v_TGD):
        o_THD: Tensor = _SoftmaxAttention.apply(q_THD, k_TGD, v_TGD, offsets, tuning)
        return o_THD
    return _attend(q_THD, k_TGD, v_TGD, offsets, tuning, None)


def _attend(
    q_THD: Tensor,
    k_TGD: Tensor,
    v_TGD: Tensor,
    offsets: tuple[int, ...],
    tuning: Tuning,
    lse_HS: Tensor | None,
) -> Tensor:
    """Outputs [T, H, D]; the rows' log-sum-exp (powers of two) go to `lse_HS` if it is there."""
    q_THD, k_TGD, v_TGD = describable(q_THD), describable(k_TGD), describable(v_TGD)
    num_tokens, num_heads, head_size = q_THD.shape
    o_THD = torch.empty(q_THD.shape, dtype=q_THD.dtype, device=q_THD.device)
    if num_tokens == 0:
        return o_THD
    tile, block = tuning.forward, tuning.grid.block
    tiles = row_tiles(offsets, tile.rows, TileOrder.LATE_ROWS_FIRST, q_THD.device)
    prepare_launch(q_THD)
    attend_rows_kernel[(len(tiles) * num_heads,)](
        describe_rows(q_THD, tile.rows), describe_keys(k_TGD, block), describe_keys(v_TGD, block),
        o_THD, o_THD if lse_HS is None else lse_HS, tiles, tiles, tiles,
        score_scale(head_size), 0 if lse_HS is None else lse_HS.stride(0), 0, 0,
        HEADS=num_heads, GROUP=num_heads // k_TGD.shape[1], D=head_size, BLOCK_M=tile.rows, BLOCK_N=block,
        SPLIT=tuning.grid.split, STAGES=tile.stages, COLUMNS=ROW_SUM_COLUMNS, PAGED=False, TABLE=False,
        STORE_LSE=lse_HS is not None, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return o_THD


class _Context(Context):
    offsets: tuple[int, ...]
    tuning: Tuning


class _SoftmaxAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context, q_THD: Tensor, k_TGD: Tensor, v_TGD: Tensor, offsets: tuple[int, ...], tuning: Tuning
    ) -> Tensor:
        q_THD, k_TGD, v_TGD = describable(q_THD), describable(k_TGD), describable(v_TGD)

        def attend() -> tuple[Tensor, Tensor]:
            num_stats = sum(padded_length(end - start) for start, end in pairwise(offsets))
            lse_HS = q_THD.new_empty(q_THD.shape[1], num_stats, dtype=torch.float32)
            return _attend(q_THD, k_TGD, v_TGD, offsets, tuning, lse_HS), lse_HS

        o_THD, lse_HS = kept(Result.ATTENTION, attend)
        ctx.save_for_backward(q_THD, k_TGD, v_TGD, o_THD, lse_HS)
        ctx.offsets, ctx.tuning = offsets, tuning
        return o_THD

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q_THD, k_TGD, v_TGD, o_THD, lse_HS = ctx.saved_tensors
        do_THD = describable(gradients[0])
        if len(q_THD) == 0:
            return torch.zeros_like(q_THD), torch.zeros_like(k_TGD), torch.zeros_like(v_TGD), None, None
        prepare_launch(q_THD)
        delta_HS = _delta(o_THD, do_THD, lse_HS, ctx.offsets, ctx.tuning)
        inputs = (q_THD, k_TGD, v_TGD, do_THD)
        dk_TGD, dv_TGD = _key_gradients(inputs, lse_HS, delta_HS, ctx.offsets, ctx.tuning)
        dq_THD = _query_gradient(inputs, lse_HS, delta_HS, ctx.offsets, ctx.tuning)
        return dq_THD, dk_TGD, dv_TGD, None, None


Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""q_THD, k_TGD, v_TGD and the output's gradient do_THD."""


def _delta(o_THD: Tensor, do_THD: Tensor, lse_HS: Tensor, offsets: tuple[int, ...], tuning: Tuning) -> Tensor:
    num_heads, head_size = o_THD.shape[1:]
    tile = tuning.query_gradient
    tiles = row_tiles(offsets, tile.rows, TileOrder.LATE_ROWS_FIRST, o_THD.device)
    delta_HS = torch.empty_like(lse_HS)
    delta_kernel[(len(tiles) * num_heads,)](
        o_THD, do_THD, delta_HS, tiles, delta_HS.stride(0), do_THD.stride(0), do_THD.stride(1),
        HEADS=num_heads, D=head_size, BLOCK_M=tile.rows, num_warps=tile.warps,
    )  # fmt: skip
    return delta_HS


def _key_gradients(
    inputs: Inputs, lse_HS: Tensor, delta_HS: Tensor, offsets: tuple[int, ...], tuning: Tuning
) -> tuple[Tensor, Tensor]:
    q_THD, k_TGD, v_TGD, do_THD = inputs
    num_heads, num_key_heads, head_size = q_THD.shape[1], *k_TGD.shape[1:]
    tile = tuning.key_gradient
    tiles = row_tiles(offsets, tile.rows, TileOrder.EARLY_ROWS_FIRST, q_THD.device)
    dk_TGD, dv_TGD = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (k_TGD, v_TGD))
    key_gradient_kernel[(len(tiles) * num_key_heads,)](
        describe_rows(q_THD, tile.step), describe_rows(k_TGD, tile.rows), describe_rows(v_TGD, tile.rows),
        describe_rows(do_THD, tile.step), dk_TGD, dv_TGD,
        describe_stats(lse_HS, tile.step), describe_stats(delta_HS, tile.step), tiles,
        score_scale(head_size), head_size**-0.5,
        KEY_HEADS=num_key_heads, GROUP=num_heads // num_key_heads, D=head_size, BLOCK_M=tile.step,
        BLOCK_N=tile.rows, STAGES=tile.stages, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return dk_TGD, dv_TGD


def _query_gradient(
    inputs: Inputs, lse_HS: Tensor, delta_HS: Tensor, offsets: tuple[int, ...], tuning: Tuning
) -> Tensor:
    q_THD, k_TGD, v_TGD, do_THD = inputs
    num_heads, head_size = q_THD.shape[1:]
    tile = tuning.query_gradient
    tiles = row_tiles(offsets, tile.rows, TileOrder.LATE_ROWS_FIRST, q_THD.device)
    dq_THD = torch.empty(q_THD.shape, dtype=q_THD.dtype, device=q_THD.device)
    query_gradient_kernel[(len(tiles) * num_heads,)](
        describe_rows(q_THD, tile.rows), describe_rows(k_TGD, tile.step), describe_rows(v_TGD, tile.step),
        describe_rows(do_THD, tile.rows), dq_THD, lse_HS, delta_HS, tiles,
        score_scale(head_size), head_size**-0.5, lse_HS.stride(0),
        HEADS=num_heads, GROUP=num_heads // k_TGD.shape[1], D=head_size, BLOCK_M=tile.rows, BLOCK_N=tile.step,
        STAGES=tile.stages, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return dq_THD
