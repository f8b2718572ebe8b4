"""Where each routed row goes: ordered by expert, stably, each expert's rows starting on a tile. No host wait.

Places that pad an expert's last tile keep unset sources; readers of sources stop at the expert's end.
Legend: T tokens, K slots, R = T * K rows in (token, slot) order, E experts, P places, M tiles of rows.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from forklight_kernels.launch import early_start
from forklight_kernels.triton_order import follow

ONE_LAUNCH_ROWS = 1024
"""Up to here every program counts all rows itself: a decode step's plan is one short launch."""

PAIRS = 8192
"""Size of a (rows, experts) comparison that stays in registers."""

MOST_BLOCK_ROWS = 32
SCAN_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpertPlan:
    """The order of the routed rows for tiles of one height. All tensors are int32 on the device."""

    tile_rows: int
    top_k: int
    place_R: Tensor
    """Place of each row."""
    source_P: Tensor
    """Row at each place; unset where a place pads its expert's last tile."""
    table_M4: Tensor
    """Per tile of rows: expert, the expert's first tile, its number of tiles, the place past its last row."""
    groups_E2: Tensor
    """Per expert: first place, number of rows."""
    num_tiles_1: Tensor
    """How many entries of the table are set."""

    @property
    def num_places(self) -> int:
        """The upper bound that buffers are sized by."""
        return len(self.source_P)


def plan_experts(experts_TK: Tensor, num_experts: int, tile_rows: int) -> ExpertPlan:
    """Sort the rows. Expert numbers out of range count as the nearest one, so that nothing reads outside."""
    num_rows = experts_TK.numel()
    most_tiles = (num_rows + min(num_experts, num_rows) * (tile_rows - 1)) // tile_rows
    new = torch.empty(0, dtype=torch.int32, device=experts_TK.device).new_empty
    plan = ExpertPlan(
        tile_rows=tile_rows,
        top_k=experts_TK.shape[1],
        place_R=new(num_rows),
        source_P=new(most_tiles * tile_rows),
        table_M4=new(most_tiles, 4),
        groups_E2=new(num_experts, 2),
        num_tiles_1=new(1),
    )
    columns = max(16, triton.next_power_of_2(num_experts))
    block = min(MOST_BLOCK_ROWS, PAIRS // columns)
    blocks = triton.cdiv(num_rows, block)
    constants = {"TILE_ROWS": tile_rows, "COLUMNS": columns, "BLOCK": block}
    experts_TK = experts_TK.contiguous()
    outputs = (plan.table_M4, plan.groups_E2, plan.num_tiles_1)
    if num_rows <= ONE_LAUNCH_ROWS:
        _plan_kernel[(blocks,)](
            *(experts_TK, plan.place_R, plan.source_P, *outputs),
            *(num_rows, num_experts),
            **constants,
            num_warps=8,
            **early_start(experts_TK),
        )
        return plan
    counts = new(blocks, columns)
    _count_kernel[(blocks,)](experts_TK, counts, num_rows, num_experts, columns, block, num_warps=8)
    scan_rows = min(SCAN_ROWS, PAIRS // columns)
    _scan_kernel[(1,)](counts, *outputs, blocks, num_experts, **constants, SCAN=scan_rows, num_warps=8)
    _place_kernel[(blocks,)](
        experts_TK,
        counts,
        plan.groups_E2,
        plan.place_R,
        plan.source_P,
        num_rows,
        num_experts,
        columns,
        block,
        num_warps=8,
    )
    return plan


@triton.jit
def _experts_of(EXPERTS, rows, R, E):
    """Expert of each row, -1 outside."""
    experts = tl.load(EXPERTS + rows, mask=rows < R, other=0).to(tl.int32)
    experts = tl.minimum(tl.maximum(experts, 0), E - 1)
    return tl.where(rows < R, experts, -1)


@triton.jit
def _count_of(experts, columns):
    return tl.sum((experts[:, None] == columns[None, :]).to(tl.int32), 0)


@triton.jit
def _rank_of(experts, rows, other_experts, other_rows):
    """Per row, how many of the other rows come earlier in the same expert."""
    is_earlier = (other_experts[None, :] == experts[:, None]) & (other_rows[None, :] < rows[:, None])
    return tl.sum(is_earlier.to(tl.int32), 1)


@triton.jit
def _write_table(
    TABLE, GROUPS, NUM_TILES, counts, E, TILE_ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr
):
    """The tiles of every expert, shared among the launch's programs. Returns each expert's first tile."""
    experts = tl.arange(0, COLUMNS)
    tiles = tl.cdiv(counts, TILE_ROWS)
    last = tl.cumsum(tiles, 0)
    first = last - tiles
    end = first * TILE_ROWS + counts
    num_tiles = tl.sum(tiles)
    if tl.program_id(0) == 0:
        tl.store(NUM_TILES, num_tiles)
        tl.store(GROUPS + experts * 2, first * TILE_ROWS, mask=experts < E)
        tl.store(GROUPS + experts * 2 + 1, counts, mask=experts < E)
    for start in range(tl.program_id(0) * BLOCK, num_tiles, tl.num_programs(0) * BLOCK):
        tile = start + tl.arange(0, BLOCK)
        is_here = (first[None, :] <= tile[:, None]) & (tile[:, None] < last[None, :])
        entry = TABLE + tile * 4
        mask = tile < num_tiles
        tl.store(entry, tl.sum(tl.where(is_here, experts[None, :], 0), 1), mask=mask)
        tl.store(entry + 1, tl.sum(tl.where(is_here, first[None, :], 0), 1), mask=mask)
        tl.store(entry + 2, tl.sum(tl.where(is_here, tiles[None, :], 0), 1), mask=mask)
        tl.store(entry + 3, tl.sum(tl.where(is_here, end[None, :], 0), 1), mask=mask)
    return first


@triton.jit(do_not_specialize=["R", "E"])
def _plan_kernel(
    EXPERTS,
    PLACE,
    SOURCE,
    TABLE,
    GROUPS,
    NUM_TILES,
    R,
    E,
    TILE_ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    EARLY: tl.constexpr,
):
    follow(EARLY)
    columns = tl.arange(0, COLUMNS)
    offsets = tl.arange(0, BLOCK)
    rows = tl.program_id(0) * BLOCK + offsets
    experts = _experts_of(EXPERTS, rows, R, E)
    counts = tl.zeros([COLUMNS], tl.int32)
    rank = tl.zeros([BLOCK], tl.int32)
    for start in range(0, R, BLOCK):
        other_rows = start + offsets
        other_experts = _experts_of(EXPERTS, other_rows, R, E)
        counts += _count_of(other_experts, columns)
        rank += _rank_of(experts, rows, other_experts, other_rows)
    first = _write_table(TABLE, GROUPS, NUM_TILES, counts, E, TILE_ROWS, COLUMNS, BLOCK)
    is_mine = experts[:, None] == columns[None, :]
    place = tl.sum(tl.where(is_mine, (first * TILE_ROWS)[None, :], 0), 1) + rank
    tl.store(PLACE + rows, place, mask=rows < R)
    tl.store(SOURCE + place, rows, mask=rows < R)


@triton.jit(do_not_specialize=["R", "E"])
def _count_kernel(EXPERTS, COUNTS, R, E, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    columns = tl.arange(0, COLUMNS)
    block = tl.program_id(0)
    experts = _experts_of(EXPERTS, block * BLOCK + tl.arange(0, BLOCK), R, E)
    tl.store(COUNTS + block * COLUMNS + columns, _count_of(experts, columns))


@triton.jit(do_not_specialize=["num_blocks", "E"])
def _scan_kernel(
    COUNTS,
    TABLE,
    GROUPS,
    NUM_TILES,
    num_blocks,
    E,
    TILE_ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    SCAN: tl.constexpr,
):
    """One program: a block's counts become the rows of the same expert in earlier blocks; then the table."""
    columns = tl.arange(0, COLUMNS)
    running = tl.zeros([COLUMNS], tl.int32)
    for start in range(0, num_blocks, SCAN):
        block = start + tl.arange(0, SCAN)
        entry = COUNTS + block[:, None] * COLUMNS + columns[None, :]
        counts = tl.load(entry, mask=(block < num_blocks)[:, None], other=0)
        earlier = running[None, :] + tl.cumsum(counts, 0) - counts
        tl.store(entry, earlier, mask=(block < num_blocks)[:, None])
        running += tl.sum(counts, 0)
    _write_table(TABLE, GROUPS, NUM_TILES, running, E, TILE_ROWS, COLUMNS, BLOCK)


@triton.jit(do_not_specialize=["R", "E"])
def _place_kernel(EXPERTS, EARLIER, GROUPS, PLACE, SOURCE, R, E, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    block = tl.program_id(0)
    rows = block * BLOCK + tl.arange(0, BLOCK)
    is_row = rows < R
    experts = _experts_of(EXPERTS, rows, R, E)
    place = tl.load(GROUPS + experts * 2, mask=is_row, other=0)
    place += tl.load(EARLIER + block * COLUMNS + experts, mask=is_row, other=0)
    place += _rank_of(experts, rows, experts, rows)
    tl.store(PLACE + rows, place, mask=is_row)
    tl.store(SOURCE + place, rows, mask=is_row)
