"""The experts' row kernels: gather rows to their places, combine them back, and the activation's gradient.

One program a row (or a piece of one). Sums that both trainer and rollout see are explicit and in slot order.
Legend: T tokens, K slots a token, R = T * K rows, P places, D width, I expert width, F = 2 I.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from forklight_kernels.launch import early_start
from forklight_kernels.moe_experts.triton_plan import ExpertPlan
from forklight_kernels.residual import Residual
from forklight_kernels.triton_order import follow

BLOCK = 1024
"""Columns a step. Elementwise work only, so it does not show in any bits."""


@triton.jit
def silu(gate):
    """x / (1 + exp(-x)), the one form of it that forward and backward use."""
    return gate / (1.0 + tl.exp(-gate))


def gather_rows(x_TD: Tensor, plan: ExpertPlan) -> Tensor:
    """x's rows at their places [P, D]; rows that pad a tile are zero, places after the last tile unset."""
    x_TD = x_TD.contiguous()
    out_PD = x_TD.new_empty(plan.num_places, x_TD.shape[1])
    _gather_kernel[(plan.num_places,)](
        x_TD,
        out_PD,
        plan.source_P,
        plan.table_M4,
        plan.num_tiles_1,
        x_TD.shape[1],
        TILE_ROWS=plan.tile_rows,
        TOP_K=plan.top_k,
        BLOCK=BLOCK,
        num_warps=4,
    )
    return out_PD


def combine(
    y_PD: Tensor,
    place_R: Tensor,
    experts_TK: Tensor,
    weights_TK: Tensor | None,
    num_experts: int,
    residual: Residual | None,
) -> Tensor:
    """Each token's rows times their weights (1 if None), summed in slot order, plus the residual, rounded.

    `place_R` says where y has each (token, slot). A token that names an expert out of range gets NaN, not
    the output of another expert.
    """
    num_tokens, width = len(experts_TK), y_PD.shape[1]
    out_TD = y_PD.new_empty(num_tokens, width)
    _combine_kernel[(num_tokens, triton.cdiv(width, BLOCK))](
        y_PD,
        place_R,
        experts_TK if weights_TK is None else weights_TK.contiguous(),
        experts_TK.contiguous(),
        out_TD if residual is None else residual.x_TD.contiguous(),
        out_TD,
        width,
        num_experts,
        1.0 if residual is None else float(residual.alpha),
        1.0 if residual is None else float(residual.beta),
        TOP_K=experts_TK.shape[1],
        BLOCK=BLOCK,
        HAS_WEIGHTS=weights_TK is not None,
        HAS_RESIDUAL=residual is not None,
        num_warps=4,
        **early_start(y_PD),
    )
    return out_TD


def activation_gradient(
    both_P2I: Tensor, dhidden_PI: Tensor, weights_TK: Tensor, beta: float, plan: ExpertPlan
) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up [P, 2, I], and of the weights [T, K] in fp32.

    dhidden comes in as the gradient for weight 1, and weight * beta * hidden, which w2's gradient needs,
    replaces it.
    """
    dboth_P2I = torch.empty_like(both_P2I)
    dweights_TK = weights_TK.new_empty(weights_TK.shape, dtype=torch.float32)
    _activation_gradient_kernel[(plan.num_places,)](
        both_P2I,
        dhidden_PI,
        weights_TK.contiguous(),
        dboth_P2I,
        dweights_TK,
        plan.source_P,
        plan.table_M4,
        plan.num_tiles_1,
        dhidden_PI.shape[1],
        beta,
        TILE_ROWS=plan.tile_rows,
        BLOCK=BLOCK,
        num_warps=4,
    )
    return dboth_P2I, dweights_TK


@triton.jit
def _gather_kernel(
    X,
    OUT,
    SOURCE,
    TABLE,
    NUM_TILES,
    D,
    TILE_ROWS: tl.constexpr,
    TOP_K: tl.constexpr,
    BLOCK: tl.constexpr,
):
    place = tl.program_id(0)
    tile = place // TILE_ROWS
    if tile < tl.load(NUM_TILES):
        is_row = place < tl.load(TABLE + tile * 4 + 3)
        source = tl.load(SOURCE + place, mask=is_row, other=0)
        x = X + (source // TOP_K).to(tl.int64) * D
        out = OUT + place.to(tl.int64) * D
        for start in range(0, D, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            values = tl.load(x + columns, mask=(columns < D) & is_row, other=0.0)
            tl.store(out + columns, values, mask=columns < D)


@triton.jit(do_not_specialize=["E"])
def _combine_kernel(
    Y,
    PLACE,
    WEIGHTS,
    EXPERTS,
    RESIDUAL,
    OUT,
    D,
    E,
    alpha,
    beta,
    TOP_K: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_WEIGHTS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    EARLY: tl.constexpr,
):
    follow(EARLY)
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < D
    total = tl.zeros([BLOCK], tl.float32)
    for slot in tl.static_range(TOP_K):
        row = token * TOP_K + slot
        place = tl.load(PLACE + row).to(tl.int64)
        y = tl.load(Y + place * D + columns, mask=mask, other=0.0).to(tl.float32)
        if HAS_WEIGHTS:
            expert = tl.load(EXPERTS + row)
            is_expert = (expert >= 0) & (expert < E)
            weight = tl.where(is_expert, tl.load(WEIGHTS + row).to(tl.float32), float("nan"))
            total = tl.fma(y, tl.full([BLOCK], weight, tl.float32), total)
        else:
            total += y
    if HAS_RESIDUAL:
        residual = tl.load(RESIDUAL + token * D + columns, mask=mask, other=0.0).to(tl.float32) * alpha
        total = tl.fma(total, tl.full([BLOCK], beta, tl.float32), residual)
    tl.store(OUT + token * D + columns, total.to(OUT.dtype.element_ty), mask=mask)


@triton.jit
def _activation_gradient_kernel(
    BOTH,
    DHIDDEN,
    WEIGHTS,
    DBOTH,
    DWEIGHTS,
    SOURCE,
    TABLE,
    NUM_TILES,
    INNER,
    beta,
    TILE_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    place = tl.program_id(0)
    tile = place // TILE_ROWS
    if tile < tl.load(NUM_TILES):
        is_row = place < tl.load(TABLE + tile * 4 + 3)
        source = tl.load(SOURCE + place, mask=is_row, other=0)
        weight = tl.load(WEIGHTS + source, mask=is_row, other=0.0).to(tl.float32) * beta
        both = place.to(tl.int64) * (2 * INNER)
        hidden_row = DHIDDEN + place.to(tl.int64) * INNER
        inner = tl.zeros([BLOCK], tl.float32)
        for start in range(0, INNER, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            mask = columns < INNER
            # A padding row reads zeros and so writes zeros: the weight gradients may sum over it.
            wanted = mask & is_row
            gate = tl.load(BOTH + both + columns, mask=wanted, other=0.0).to(tl.float32)
            up = tl.load(BOTH + both + INNER + columns, mask=wanted, other=0.0).to(tl.float32)
            dhidden = tl.load(hidden_row + columns, mask=wanted, other=0.0).to(tl.float32)
            sigmoid = 1.0 / (1.0 + tl.exp(-gate))
            active = gate * sigmoid
            hidden = active * up
            inner += dhidden * hidden
            dhidden *= weight
            dgate = dhidden * up * (sigmoid + active * (1.0 - sigmoid))
            kind = DBOTH.dtype.element_ty
            tl.store(DBOTH + both + columns, dgate.to(kind), mask=mask)
            tl.store(DBOTH + both + INNER + columns, (dhidden * active).to(kind), mask=mask)
            tl.store(hidden_row + columns, (hidden * weight).to(kind), mask=mask)
        tl.store(DWEIGHTS + source, tl.sum(inner) * beta, mask=is_row)
