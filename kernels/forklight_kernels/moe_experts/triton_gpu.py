"""The experts on a GPU: plan, gate and up, down, combine; and the backward pass of it.

A decode step is four launches, gathers rows inside the product and keeps nothing. A training pass gathers
rows first (twice: the backward pass gathers again), keeps gate and up, and recomputes hidden from them.
Legend: T tokens, K slots a token, P places, E experts, D width, I expert width, F = 2 I.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from forklight_kernels.checks import require
from forklight_kernels.gradient import Context, needs_gradient
from forklight_kernels.moe_experts.triton_gradient import RowsSaved, RowsWanted, rows_gradient
from forklight_kernels.moe_experts.triton_plan import ExpertPlan, plan_experts
from forklight_kernels.moe_experts.triton_products import gate_and_up, rows_by_experts
from forklight_kernels.moe_experts.triton_rows import combine, gather_rows
from forklight_kernels.moe_experts.types import ExpertPart
from forklight_kernels.recompute import Result, is_repeating, kept
from forklight_kernels.residual import Residual
from forklight_kernels.triton_tiles import MAP_ALIGN_BYTES, Tile


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertTiles:
    """The tiles of a pass; up and down are of one height, the plan's."""

    up: Tile
    down: Tile
    gathers_first: bool
    """Whether a row kernel brings rows to their places before the first product; else the product gathers."""


TRAINING_TILES = ExpertTiles(
    up=Tile(rows=128, columns=128, depth=64, num_warps=8, num_stages=4),
    down=Tile(rows=128, columns=256, depth=64, num_warps=8, num_stages=4, parts=2),
    gathers_first=True,
)
GRADIENT_TILE = Tile(rows=128, columns=256, depth=64, num_warps=8, num_stages=4, parts=2)
"""Of the matrices' gradients. Its depth divides the training tiles' rows: past an expert's rows lie zeros."""

EXACT_TILES = ExpertTiles(
    up=Tile(rows=32, columns=32, depth=32, num_warps=4, num_stages=2),
    down=Tile(rows=32, columns=64, depth=32, num_warps=4, num_stages=2),
    gathers_first=True,
)
"""fp32 operands: for tests and truth runs."""

EXACT_GRADIENT_TILE = Tile(rows=32, columns=64, depth=32, num_warps=4, num_stages=2)

STREAM_TILES = (
    (
        8,
        ExpertTiles(
            up=Tile(rows=16, columns=64, depth=128, num_warps=4, num_stages=4, programs=2),
            down=Tile(rows=16, columns=128, depth=128, num_warps=4, num_stages=4, programs=2),
            gathers_first=False,
        ),
    ),
    (
        24,
        ExpertTiles(
            up=Tile(rows=32, columns=64, depth=128, num_warps=4, num_stages=4, programs=2),
            down=Tile(rows=32, columns=128, depth=128, num_warps=4, num_stages=4, programs=2),
            gathers_first=False,
        ),
    ),
    (
        96,
        ExpertTiles(
            up=Tile(rows=64, columns=64, depth=64, num_warps=4, num_stages=4, programs=2),
            down=Tile(rows=64, columns=128, depth=64, num_warps=4, num_stages=4, programs=2),
            gathers_first=False,
        ),
    ),
)
"""Up to so many rows an expert on average: tiles as high as most experts' rows, which stream the weights."""

NARROW_UP_COLUMNS = 32
WIDE_UP_TILES = 1500
"""Fewer tiles of gate and up than this leave multiprocessors idle at the end; half the columns then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertInputs:
    """What the op is a function of, but for the residual."""

    x_TD: Tensor
    weights_TK: Tensor
    experts_TK: Tensor
    w13_EFD: Tensor
    w2_EID: Tensor


def moe_experts(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    w13_EFD: Tensor,
    w2_EID: Tensor,
    residual: Residual | None,
) -> Tensor:
    inputs = ExpertInputs(
        x_TD=x_TD, weights_TK=weights_TK, experts_TK=experts_TK, w13_EFD=w13_EFD, w2_EID=w2_EID
    )
    return run(inputs, residual)


def moe_experts_part(
    x_TD: Tensor,
    weights_TK: Tensor,
    experts_TK: Tensor,
    part: ExpertPart,
    residual: Residual | None,
    tiles: ExpertTiles | None = None,
) -> Tensor:
    """As `_forward`; between the products hidden rows lie in (token, slot) order: no padding is gathered."""
    num_experts, inner, width = part.w2_EID.shape
    part_inner = part.w13_EFD.shape[1] // 2
    refuse_odd_widths(x_TD, inner, part_inner, width)
    if len(x_TD) == 0:
        return x_TD.new_empty(0, width)
    tiles = tiles or choose_tiles(experts_TK.numel(), num_experts, part_inner, x_TD.dtype, False)
    plan = plan_experts(experts_TK, num_experts, tiles.up.rows)
    rows = gather_rows(x_TD, plan) if tiles.gathers_first else x_TD.contiguous()
    hidden_PI = gate_and_up(rows, part.w13_EFD, plan, tiles.up, None, gathers=not tiles.gathers_first)
    hidden_RI = part.gather_columns(hidden_PI.index_select(0, plan.place_R))
    hidden_PI = gather_rows(hidden_RI, replace(plan, top_k=1))
    y_PD = rows_by_experts(hidden_PI, part.w2_EID, plan, tiles.down)
    return combine(y_PD, plan.place_R, experts_TK, weights_TK, num_experts, residual)


def refuse_odd_widths(x_TD: Tensor, inner: int, part_inner: int, width: int) -> None:
    """Odd widths of whole experts are padded; in parts they would need it before and after the gather."""
    unit = MAP_ALIGN_BYTES // x_TD.element_size()
    widths = (x_TD.shape[1], inner, part_inner, width)
    require(
        all(each % unit == 0 for each in widths),
        f"the widths of x, hidden, its part and the output's part are {', '.join(map(str, widths))}; "
        f"for experts cut into parts, in {x_TD.dtype}, each must be a multiple of {unit}",
    )


def run(inputs: ExpertInputs, residual: Residual | None, tiles: ExpertTiles | None = None) -> Tensor:
    """The op with tiles of one's own. Any tiles give the same bits."""
    _, inner, width = inputs.w2_EID.shape
    unit = MAP_ALIGN_BYTES // inputs.x_TD.element_size()
    if inner % unit or width % unit:
        padded = run(
            _pad(inputs, -inner % unit, -width % unit), _pad_residual(residual, -width % unit), tiles
        )
        return padded[:, :width].contiguous()
    residual_TD = None if residual is None else residual.x_TD
    keeps = needs_gradient(inputs.x_TD, inputs.weights_TK, inputs.w13_EFD, inputs.w2_EID, residual_TD)
    tiles = tiles or choose_tiles(
        inputs.experts_TK.numel(), len(inputs.w2_EID), inner, inputs.x_TD.dtype, keeps
    )
    if not keeps:
        return _forward(inputs, residual, tiles, None, None)
    scales = (1.0, 1.0) if residual is None else (float(residual.alpha), float(residual.beta))
    call = _Call(experts_TK=inputs.experts_TK, tiles=tiles, alpha=scales[0], beta=scales[1])
    tensors = (inputs.x_TD, inputs.weights_TK, inputs.w13_EFD, inputs.w2_EID, residual_TD)
    result: Tensor = _Experts.apply(*tensors, call)
    return result


@lru_cache(maxsize=4096)
def choose_tiles(num_rows: int, num_experts: int, inner: int, dtype: torch.dtype, keeps: bool) -> ExpertTiles:
    """Tiles for this many routed rows; a pass that keeps activations for a gradient has those of training."""
    if dtype == torch.float32:
        return EXACT_TILES
    rows_an_expert = num_rows / num_experts
    if keeps or rows_an_expert > STREAM_TILES[-1][0]:
        return TRAINING_TILES
    tiles = next(tiles for most, tiles in STREAM_TILES if rows_an_expert <= most)
    if num_experts * inner < WIDE_UP_TILES * tiles.up.columns:
        return replace(tiles, up=replace(tiles.up, columns=NARROW_UP_COLUMNS))
    return tiles


def _pad(inputs: ExpertInputs, more_inner: int, more_width: int) -> ExpertInputs:
    """Zero columns up to what tensor maps ask for. They add exact zeros to every sum."""
    num_experts, inner, width = inputs.w2_EID.shape
    w13_E2ID = pad(inputs.w13_EFD.view(num_experts, 2, inner, width), (0, more_width, 0, more_inner))
    return ExpertInputs(
        x_TD=pad(inputs.x_TD, (0, more_width)),
        weights_TK=inputs.weights_TK,
        experts_TK=inputs.experts_TK,
        w13_EFD=w13_E2ID.view(num_experts, 2 * (inner + more_inner), width + more_width),
        w2_EID=pad(inputs.w2_EID, (0, more_width, 0, more_inner)),
    )


def _pad_residual(residual: Residual | None, more_width: int) -> Residual | None:
    if residual is None:
        return None
    return Residual(x_TD=pad(residual.x_TD, (0, more_width)), alpha=residual.alpha, beta=residual.beta)


def _forward(
    inputs: ExpertInputs,
    residual: Residual | None,
    tiles: ExpertTiles,
    plan: ExpertPlan | None,
    both_P2I: Tensor | None,
) -> Tensor:
    """The mixture; gate and up are left in `both_P2I` where given."""
    x_TD, num_experts = inputs.x_TD, len(inputs.w2_EID)
    if len(x_TD) == 0:
        return torch.empty_like(x_TD)
    plan = plan or plan_experts(inputs.experts_TK, num_experts, tiles.up.rows)
    rows = gather_rows(x_TD, plan) if tiles.gathers_first else x_TD
    hidden_PI = gate_and_up(rows, inputs.w13_EFD, plan, tiles.up, both_P2I, gathers=not tiles.gathers_first)
    del rows
    y_PD = rows_by_experts(hidden_PI, inputs.w2_EID, plan, tiles.down)
    return combine(y_PD, plan.place_R, inputs.experts_TK, inputs.weights_TK, num_experts, residual)


def _gate_and_up_alone(inputs: ExpertInputs, plan: ExpertPlan, tiles: ExpertTiles) -> Tensor:
    """What the backward pass needs of a forward pass."""
    x_TD, inner = inputs.x_TD, inputs.w2_EID.shape[1]
    both_P2I = x_TD.new_empty(plan.num_places, 2, inner)
    if len(x_TD) > 0:
        rows = gather_rows(x_TD, plan) if tiles.gathers_first else x_TD
        gate_and_up(rows, inputs.w13_EFD, plan, tiles.up, both_P2I, gathers=not tiles.gathers_first)
    return both_P2I


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Call:
    """What a differentiable call holds besides its differentiable tensors."""

    experts_TK: Tensor
    tiles: ExpertTiles
    alpha: float
    beta: float


class _Context(Context):
    needs_input_grad: tuple[bool, ...]
    plan: ExpertPlan
    call: _Call


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        x_TD: Tensor,
        weights_TK: Tensor,
        w13_EFD: Tensor,
        w2_EID: Tensor,
        residual_TD: Tensor | None,
        call: _Call,
    ) -> Tensor:
        residual = None
        if residual_TD is not None:
            residual = Residual(x_TD=residual_TD, alpha=call.alpha, beta=call.beta)
        inputs = ExpertInputs(
            x_TD=x_TD, weights_TK=weights_TK, experts_TK=call.experts_TK, w13_EFD=w13_EFD, w2_EID=w2_EID
        )
        plan = plan_experts(call.experts_TK, len(w2_EID), call.tiles.up.rows)
        if is_repeating():
            # Nobody reads a repeated block's output, and these experts are its last op.
            (both_P2I,) = kept(Result.EXPERTS, lambda: (_gate_and_up_alone(inputs, plan, call.tiles),))
            out_TD = torch.empty_like(x_TD)
        else:
            both_P2I = x_TD.new_empty(plan.num_places, 2, w2_EID.shape[1])
            out_TD = _forward(inputs, residual, call.tiles, plan, both_P2I)
            kept(Result.EXPERTS, lambda: (both_P2I,))
        ctx.save_for_backward(x_TD, weights_TK, w13_EFD, w2_EID, both_P2I)
        ctx.plan, ctx.call = plan, call
        return out_TD

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weights_TK, w13_EFD, w2_EID, both_P2I = ctx.saved_tensors
        needs = ctx.needs_input_grad
        if len(x_TD) == 0:
            zeros = [torch.zeros_like(each) for each in (x_TD, weights_TK, w13_EFD, w2_EID, x_TD)]
            return *(zero if need else None for zero, need in zip(zeros, needs, strict=False)), None
        dout_TD = gradients[0].contiguous()
        saved = RowsSaved(
            x_TD=x_TD, weights_TK=weights_TK, w13_EFD=w13_EFD, w2_EID=w2_EID, both_P2I=both_P2I, plan=ctx.plan
        )
        pull = rows_gradient(dout_TD, saved, wanted_rows(needs, ctx.call.tiles, ctx.call.beta, x_TD.dtype))
        dx_TD = None
        if pull.dx_PD is not None:
            dx_TD = combine(pull.dx_PD, ctx.plan.place_R, ctx.call.experts_TK, None, len(w2_EID), None)
        dresidual_TD = dout_TD * ctx.call.alpha if needs[4] else None
        dweights_TK = pull.dweights_TK.to(weights_TK.dtype)
        return dx_TD, dweights_TK, pull.dw13_EFD, pull.dw2_EID, dresidual_TD, None


def wanted_rows(needs: tuple[bool, ...], tiles: ExpertTiles, beta: float, dtype: torch.dtype) -> RowsWanted:
    """From autograd's word on x, weights, w13 and w2."""
    return RowsWanted(
        needs_x=needs[0],
        needs_w13=needs[2],
        needs_w2=needs[3],
        beta=beta,
        rows_tile=tiles.down,
        gradient_tile=EXACT_GRADIENT_TILE if dtype == torch.float32 else GRADIENT_TILE,
    )
