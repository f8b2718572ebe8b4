"""The router on a GPU: scores in one fixed-order product, top-k and weights in the same program.

The weights are the softmax over the chosen scores (what a renormalised softmax over all is), so nothing is
ever summed over a row of experts: a row's bits depend on no tile.
Legend: T tokens, D width, E experts, K experts a token.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from forklight_kernels.gradient import Context, needs_gradient
from forklight_kernels.launch import early_start, num_multiprocessors, prepare_launch
from forklight_kernels.moe_router.types import RoutedTokens
from forklight_kernels.triton_order import follow
from forklight_kernels.triton_tiles import Tile, fit_stages, mappable, tensor_map

FEWEST_COLUMNS = 16
"""The narrowest product of the matrix units."""

FEW_ROWS = 2048
"""Up to here short tiles spread tokens over more multiprocessors; above, tall ones read the weight less."""


def moe_router(
    x_TD: Tensor, weight_ED: Tensor, top_k: int, experts_TK: Tensor | None, tile: Tile | None = None
) -> RoutedTokens:
    if needs_gradient(x_TD, weight_ED):
        weights_TK, experts_TK, logits_TE = _Router.apply(x_TD, weight_ED, top_k, experts_TK, tile)
    else:
        weights_TK, experts_TK, logits_TE = _route(x_TD, weight_ED, top_k, experts_TK, tile)
    return RoutedTokens(weights_TK=weights_TK, experts_TK=experts_TK, logits_TE=logits_TE)


def choose_tile(num_rows: int, num_experts: int, dtype: torch.dtype) -> Tile:
    """The tile for this many rows. Any tile gives the same bits."""
    columns = max(FEWEST_COLUMNS, triton.next_power_of_2(num_experts))
    if dtype == torch.float32:
        return Tile(rows=16, columns=columns, depth=32, num_warps=4, num_stages=2)
    if num_rows <= FEW_ROWS:
        depth = max(64, min(512, 16384 // columns))
        return Tile(rows=16, columns=columns, depth=depth, num_warps=2, num_stages=3)
    depth = max(64, min(256, 8192 // columns))
    return Tile(rows=64, columns=columns, depth=depth, num_warps=4, num_stages=4)


def _route(
    x_TD: Tensor, weight_ED: Tensor, top_k: int, experts_TK: Tensor | None, tile: Tile | None
) -> tuple[Tensor, Tensor, Tensor]:
    (num_rows, depth), num_experts = x_TD.shape, len(weight_ED)
    weights_TK = x_TD.new_empty(num_rows, top_k, dtype=torch.float32)
    logits_TE = x_TD.new_empty(num_rows, num_experts, dtype=torch.float32)
    chosen_TK = x_TD.new_empty(num_rows, top_k, dtype=torch.int64)
    if num_rows == 0:
        return weights_TK, chosen_TK, logits_TE
    tile = tile or choose_tile(num_rows, num_experts, x_TD.dtype)
    tile = fit_stages(tile, (tile.rows + tile.columns) * tile.depth * x_TD.element_size(), 0)
    prepare_launch(x_TD)
    programs = min(triton.cdiv(num_rows, tile.rows), tile.programs * num_multiprocessors(x_TD))
    _router_kernel[(programs,)](
        tensor_map(mappable(x_TD), (tile.rows, tile.depth)),
        tensor_map(mappable(weight_ED), (tile.columns, tile.depth)),
        chosen_TK if experts_TK is None else experts_TK.contiguous(),
        weights_TK,
        chosen_TK,
        logits_TE,
        num_rows,
        depth,
        NUM_EXPERTS=num_experts,
        TOP_K=top_k,
        SLOTS=triton.next_power_of_2(top_k),
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        DEPTH=tile.depth,
        IS_REPLAY=experts_TK is not None,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        **early_start(x_TD),
    )
    return weights_TK, chosen_TK, logits_TE


class _Context(Context):
    needs_input_grad: tuple[bool, ...]


class _Router(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        x_TD: Tensor,
        weight_ED: Tensor,
        top_k: int,
        experts_TK: Tensor | None,
        tile: Tile | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights_TK, chosen_TK, logits_TE = _route(x_TD, weight_ED, top_k, experts_TK, tile)
        ctx.mark_non_differentiable(chosen_TK)
        ctx.save_for_backward(x_TD, weight_ED, weights_TK, chosen_TK)
        return weights_TK, chosen_TK, logits_TE

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weight_ED, weights_TK, chosen_TK = ctx.saved_tensors
        dweights_TK, _, dlogits_TE = gradients
        product_TK = dweights_TK * weights_TK
        dchosen_TK = product_TK - weights_TK * product_TK.sum(dim=-1, keepdim=True)
        # Slot after slot: a replay may name an expert twice, and a scatter of equal indices has no order.
        experts_E = torch.arange(dlogits_TE.shape[1], device=dlogits_TE.device)
        for slot in range(weights_TK.shape[1]):
            is_chosen_TE = chosen_TK[:, slot, None] == experts_E
            dlogits_TE = dlogits_TE + torch.where(is_chosen_TE, dchosen_TK[:, slot, None], 0.0)
        dlogits_TE = dlogits_TE.to(x_TD.dtype)
        needs_x, needs_weight, *_ = ctx.needs_input_grad
        return (
            torch.mm(dlogits_TE, weight_ED) if needs_x else None,
            torch.mm(dlogits_TE.t(), x_TD) if needs_weight else None,
            None,
            None,
            None,
        )


@triton.jit(do_not_specialize=["T"])
def _router_kernel(
    X,
    WEIGHT,
    GIVEN,
    WEIGHTS,
    CHOSEN,
    LOGITS,
    T,
    D,
    NUM_EXPERTS: tl.constexpr,
    TOP_K: tl.constexpr,
    SLOTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    IS_REPLAY: tl.constexpr,
    EARLY: tl.constexpr,
):
    follow(EARLY)
    for tile in tl.range(tl.program_id(0), tl.cdiv(T, ROWS), tl.num_programs(0)):
        row = tile * ROWS
        scores = tl.zeros([ROWS, COLUMNS], tl.float32)
        for k in range(0, D, DEPTH):
            scores = tl.dot(X.load([row, k]), WEIGHT.load([0, k]).T, scores, input_precision="ieee")
        rows = row + tl.arange(0, ROWS)
        experts = tl.arange(0, COLUMNS)
        slots = tl.arange(0, SLOTS)
        is_row = rows < T
        long_rows = rows.to(tl.int64)
        logits = LOGITS + long_rows[:, None] * NUM_EXPERTS + experts[None, :]
        tl.store(logits, scores, mask=is_row[:, None] & (experts < NUM_EXPERTS)[None, :])
        left = tl.where((experts < NUM_EXPERTS)[None, :], scores, float("-inf"))
        chosen = tl.zeros([ROWS, SLOTS], tl.int32)
        chosen_scores = tl.full([ROWS, SLOTS], float("-inf"), tl.float32)
        for slot in tl.static_range(TOP_K):
            if IS_REPLAY:
                index = tl.load(GIVEN + long_rows * TOP_K + slot, mask=is_row, other=0).to(tl.int32)
                best = tl.max(tl.where(experts[None, :] == index[:, None], scores, float("-inf")), 1)
            else:
                best = tl.max(left, 1)
                # Where nothing equals the maximum (not a number) the last expert stands in, an index in range
                index = tl.min(tl.where(left == best[:, None], experts[None, :], NUM_EXPERTS - 1), 1)
                left = tl.where(experts[None, :] == index[:, None], float("-inf"), left)
            chosen = tl.where((slots == slot)[None, :], index[:, None], chosen)
            chosen_scores = tl.where((slots == slot)[None, :], best[:, None], chosen_scores)
        weights = tl.exp(chosen_scores - tl.max(chosen_scores, 1)[:, None])
        total = tl.zeros([ROWS], tl.float32)
        for slot in tl.static_range(TOP_K):
            # One term and zeros: exact in any order, so the slots are summed in theirs.
            total += tl.sum(tl.where((slots == slot)[None, :], weights, 0.0), 1)
        place = long_rows[:, None] * TOP_K + slots[None, :]
        mask = is_row[:, None] & (slots < TOP_K)[None, :]
        tl.store(WEIGHTS + place, weights / total[:, None], mask=mask)
        tl.store(CHOSEN + place, chosen.to(tl.int64), mask=mask)
