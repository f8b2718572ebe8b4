"""The experts' products: gate and up; rows times their expert's matrix; and the gradient of the matrices.

Each is one persistent kernel. Tiles of rows and their experts come from the plan on the device.

Legend: T tokens, P places, E experts, D width, I expert width, F = 2 I, A and B any two widths.
"""

import triton
import triton.language as tl
from torch import Tensor

from forklight_kernels.launch import early_start, num_multiprocessors, prepare_launch
from forklight_kernels.moe_experts.triton_plan import ExpertPlan
from forklight_kernels.moe_experts.triton_rows import silu
from forklight_kernels.triton_order import follow
from forklight_kernels.triton_tiles import (
    MAP_ALIGN_BYTES,
    Tile,
    fit_stages,
    halves,
    mappable,
    place_of_tile,
    store_block,
    tensor_map,
)


def gate_and_up(
    x: Tensor, w13_EFD: Tensor, plan: ExpertPlan, tile: Tile, both_P2I: Tensor | None, *, gathers: bool
) -> Tensor:
    """hidden [P, I] = silu(gate) * up, rounded once. x is [T, D] if the kernel gathers, else [P, D] in place.

    Gate and up are rounded into `both_P2I` where given, for a backward pass; hidden's bits do not change.
    """
    num_experts, inner, width = len(w13_EFD), w13_EFD.shape[1] // 2, w13_EFD.shape[2]
    hidden_PI = x.new_empty(plan.num_places, inner)
    keeps = both_P2I is not None
    size = x.element_size()
    tile = fit_stages(
        tile,
        (tile.rows + 2 * tile.columns) * tile.depth * size,
        tile.rows * tile.columns * size,
    )
    prepare_launch(x)
    # One block shape for all three outputs: they then share one staging buffer.
    block = (tile.rows, 1, tile.columns)
    hidden_map = tensor_map(hidden_PI[:, None], block)
    _up_kernel[_grid(x, plan, inner, tile)](
        x.contiguous() if gathers else tensor_map(x, (tile.rows, tile.depth)),
        tensor_map(mappable(w13_EFD.view(num_experts, 2, inner, width)), (1, 2, tile.columns, tile.depth)),
        hidden_map,
        hidden_map if both_P2I is None else tensor_map(both_P2I, block),
        plan.source_P,
        plan.table_M4,
        plan.num_tiles_1,
        inner,
        width,
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        DEPTH=tile.depth,
        GROUP=tile.group,
        TOP_K=plan.top_k,
        UNIT=MAP_ALIGN_BYTES // size,
        IS_EVEN=width % tile.depth == 0,
        GATHERS=gathers,
        KEEPS=keeps,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        **early_start(x),
    )
    return hidden_PI


def rows_by_experts(
    rows_PA: Tensor, matrices: Tensor, plan: ExpertPlan, tile: Tile, is_transposed: bool = False
) -> Tensor:
    """[P, B]: each row times its expert's matrix [E, A, B] (or, transposed, [E, B, A])."""
    width = matrices.shape[1 if is_transposed else 2]
    out_PB = rows_PA.new_empty(plan.num_places, width)
    size = rows_PA.element_size()
    tile = fit_stages(
        tile,
        (tile.rows + tile.columns) * tile.depth * size,
        tile.rows * tile.columns // tile.parts * size,
    )
    prepare_launch(rows_PA)
    block = (1, tile.columns, tile.depth) if is_transposed else (1, tile.depth, tile.columns)
    _rows_kernel[_grid(rows_PA, plan, width, tile)](
        tensor_map(rows_PA, (tile.rows, tile.depth)),
        tensor_map(mappable(matrices), block),
        tensor_map(out_PB, (tile.rows, tile.columns // tile.parts)),
        plan.table_M4,
        plan.num_tiles_1,
        width,
        rows_PA.shape[1],
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        DEPTH=tile.depth,
        PARTS=tile.parts,
        GROUP=tile.group,
        IS_TRANSPOSED=is_transposed,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        **early_start(rows_PA),
    )
    return out_PB


def matrix_gradient(left_PA: Tensor, right_PB: Tensor, plan: ExpertPlan, tile: Tile) -> Tensor:
    """[E, A, B]: per expert left^T @ right over its rows. Rows that pad a tile must be zero in both."""
    (_, height), width, num_experts = left_PA.shape, right_PB.shape[1], len(plan.groups_E2)
    out_EAB = left_PA.new_empty(num_experts, height, width)
    size = left_PA.element_size()
    tile = fit_stages(
        tile, (tile.rows + tile.columns) * tile.depth * size, tile.rows * tile.columns // tile.parts * size
    )
    prepare_launch(left_PA)
    num_tiles = num_experts * triton.cdiv(height, tile.rows) * triton.cdiv(width, tile.columns)
    _matrix_gradient_kernel[(min(num_tiles, tile.programs * num_multiprocessors(left_PA)),)](
        tensor_map(left_PA, (tile.depth, tile.rows)),
        tensor_map(right_PB, (tile.depth, tile.columns)),
        tensor_map(out_EAB, (1, tile.rows, tile.columns // tile.parts)),
        plan.groups_E2,
        plan.num_places,
        num_experts,
        height,
        width,
        EXPERTS=triton.next_power_of_2(num_experts),
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        DEPTH=tile.depth,
        PARTS=tile.parts,
        GROUP=tile.group,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return out_EAB


def _grid(like: Tensor, plan: ExpertPlan, width: int, tile: Tile) -> tuple[int]:
    """Persistent programs: the number of tiles is known on the device only, its upper bound here."""
    most_tiles = len(plan.table_M4) * triton.cdiv(width, tile.columns)
    return (min(most_tiles, tile.programs * num_multiprocessors(like)),)


@triton.jit
def _tile_of_expert(TABLE, tile, num_n, GROUP: tl.constexpr):
    """Expert, tile of rows and of columns. An expert's tiles follow one another: its matrix is read once."""
    entry = TABLE + tile // num_n * 4
    expert = tl.load(entry)
    first = tl.load(entry + 1)
    place_m, place_n = place_of_tile(tile - first * num_n, tl.load(entry + 2), num_n, GROUP)
    return expert, first + place_m, place_n


@triton.jit
def _up_kernel(
    X,
    W13,
    HIDDEN,
    BOTH,
    SOURCE,
    TABLE,
    NUM_TILES,
    INNER,
    D,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
    TOP_K: tl.constexpr,
    UNIT: tl.constexpr,
    IS_EVEN: tl.constexpr,
    GATHERS: tl.constexpr,
    KEEPS: tl.constexpr,
    EARLY: tl.constexpr,
):
    follow(EARLY)
    num_n = tl.cdiv(INNER, COLUMNS)
    stride = D // UNIT * UNIT  # D itself; the visible multiple lets gathering copies be as wide as they can
    for tile in tl.range(tl.program_id(0), tl.load(NUM_TILES) * num_n, tl.num_programs(0), flatten=True):
        expert, place_m, place_n = _tile_of_expert(TABLE, tile, num_n, GROUP)
        row, column = place_m * ROWS, place_n * COLUMNS
        if GATHERS:
            places = row + tl.arange(0, ROWS)
            is_row = places < tl.load(TABLE + place_m * 4 + 3)
            tokens = tl.load(SOURCE + places, mask=is_row, other=0) // TOP_K
        total = tl.zeros([ROWS, 2 * COLUMNS], tl.float32)
        for k in range(0, D, DEPTH):
            if GATHERS:
                depth = k + tl.arange(0, DEPTH)
                mask = is_row[:, None]
                if not IS_EVEN:
                    mask = mask & (depth < stride)[None, :]
                # From the token each time: a pointer carried along would lose its alignment.
                x_rows = X + tokens.to(tl.int64)[:, None] * stride
                x = tl.load(x_rows + depth[None, :], mask=mask, other=0.0)
            else:
                x = X.load([row, k])
            w13 = tl.reshape(W13.load([expert, 0, column, k]), (2 * COLUMNS, DEPTH))
            total = tl.dot(x, w13.T, total, input_precision="ieee")
        gate, up = halves(total)
        if KEEPS:
            BOTH.store([row, 0, column], tl.reshape(gate.to(BOTH.dtype), (ROWS, 1, COLUMNS)))
            BOTH.store([row, 1, column], tl.reshape(up.to(BOTH.dtype), (ROWS, 1, COLUMNS)))
        hidden = (silu(gate) * up).to(HIDDEN.dtype)
        HIDDEN.store([row, 0, column], tl.reshape(hidden, (ROWS, 1, COLUMNS)))


@triton.jit
def _rows_kernel(
    LEFT,
    MATRICES,
    OUT,
    TABLE,
    NUM_TILES,
    N,
    K,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PARTS: tl.constexpr,
    GROUP: tl.constexpr,
    IS_TRANSPOSED: tl.constexpr,
    EARLY: tl.constexpr,
):
    follow(EARLY)
    num_n = tl.cdiv(N, COLUMNS)
    for tile in tl.range(tl.program_id(0), tl.load(NUM_TILES) * num_n, tl.num_programs(0), flatten=True):
        expert, place_m, place_n = _tile_of_expert(TABLE, tile, num_n, GROUP)
        row, column = place_m * ROWS, place_n * COLUMNS
        total = tl.zeros([ROWS, COLUMNS], tl.float32)
        for k in range(0, K, DEPTH):
            left = LEFT.load([row, k])
            if IS_TRANSPOSED:
                right = tl.reshape(MATRICES.load([expert, column, k]), (COLUMNS, DEPTH)).T
            else:
                right = tl.reshape(MATRICES.load([expert, k, column]), (DEPTH, COLUMNS))
            total = tl.dot(left, right, total, input_precision="ieee")
        store_block(OUT, row, column, total, PARTS)


@triton.jit(do_not_specialize=["P", "E"])
def _matrix_gradient_kernel(
    LEFT,
    RIGHT,
    OUT,
    GROUPS,
    P,
    E,
    M,
    N,
    EXPERTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    PARTS: tl.constexpr,
    GROUP: tl.constexpr,
):
    num_m, num_n = tl.cdiv(M, ROWS), tl.cdiv(N, COLUMNS)
    num_mn = num_m * num_n
    stride = tl.num_programs(0)
    # One flat loop over the steps of all tiles of this program, so that loads run ahead from tile to tile.
    experts = tl.arange(0, EXPERTS)
    counts = tl.load(GROUPS + experts * 2 + 1, mask=experts < E, other=0)
    begin = tl.cdiv(tl.maximum(experts * num_mn - tl.program_id(0), 0), stride)
    end = tl.cdiv(tl.maximum((experts + 1) * num_mn - tl.program_id(0), 0), stride)
    # An expert without rows takes one step over rows outside, which are zeros.
    steps = tl.where(experts < E, tl.maximum(tl.cdiv(counts, DEPTH), 1) * (end - begin), 0)
    tile = tl.program_id(0) - stride
    row, column, expert, first, step, num_steps = 0, 0, 0, 0, -1, 0
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for _ in tl.range(0, tl.sum(steps)):
        step = tl.where(step >= num_steps - 1, 0, step + 1)
        if step == 0:
            tile += stride
            expert = tile // num_mn
            place_m, place_n = place_of_tile(tile % num_mn, num_m, num_n, GROUP)
            row, column = place_m * ROWS, place_n * COLUMNS
            count = tl.load(GROUPS + expert * 2 + 1)
            first = tl.where(count > 0, tl.load(GROUPS + expert * 2), P)
            num_steps = tl.maximum(tl.cdiv(count, DEPTH), 1)
        k = first + step * DEPTH
        total = tl.dot(LEFT.load([k, row]).T, RIGHT.load([k, column]), total, input_precision="ieee")
        if step == num_steps - 1:
            _store_matrix(OUT, expert, row, column, total, PARTS)
            total = tl.zeros([ROWS, COLUMNS], tl.float32)


@triton.jit
def _store_matrix(OUT, expert, row, column, block, PARTS: tl.constexpr):
    ROWS: tl.constexpr = block.shape[0]
    COLUMNS: tl.constexpr = block.shape[1] // PARTS
    if PARTS == 1:
        OUT.store([expert, row, column], tl.reshape(block.to(OUT.dtype), (1, ROWS, COLUMNS)))
    else:
        left, right = halves(block)
        OUT.store([expert, row, column], tl.reshape(left.to(OUT.dtype), (1, ROWS, COLUMNS)))
        OUT.store([expert, row, column + COLUMNS], tl.reshape(right.to(OUT.dtype), (1, ROWS, COLUMNS)))
