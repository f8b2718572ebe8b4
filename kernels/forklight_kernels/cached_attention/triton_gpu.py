"""Cached attention on a GPU: decode over splits, a prompt in pieces through the prefill kernel, and new rows.

Decode and its append never wait on the host and take their grids from shapes: CUDA graphs may hold them.
Legend: T new tokens, B sequences, H heads, G key heads, R = H / G, L places of a page, D head size, S splits.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from forklight_kernels.cached_attention.request import require_layout
from forklight_kernels.cached_attention.triton_decode import (
    append_rows_kernel,
    decode_split_kernel,
    merge_splits_kernel,
)
from forklight_kernels.cached_attention.types import KeyPages
from forklight_kernels.checks import require
from forklight_kernels.launch import early_start, prepare_launch
from forklight_kernels.packing import sequence_offsets
from forklight_kernels.softmax_attention.blocks import KEY_GRID, ROW_SUM_COLUMNS, KeyGrid, score_scale
from forklight_kernels.softmax_attention.triton_forward import attend_rows_kernel
from forklight_kernels.softmax_attention.triton_tiles import (
    Tile,
    TileOrder,
    choose_tuning,
    describable,
    describe_rows,
    outer_strides,
    row_tiles,
)

MERGE_UNROLL = 8
"""Splits whose loads are in flight together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeTile:
    """How a program of decode runs. Bits depend on neither number."""

    warps: int
    stages: int


_DECODE = {torch.float32: DecodeTile(warps=8, stages=1)}
_DECODE_HALF = DecodeTile(warps=4, stages=3)


def cached_attention(
    q_THD: Tensor,
    pages: KeyPages,
    lengths_B: Tensor,
    cu_seqlens: Tensor | None = None,
    *,
    grid: KeyGrid = KEY_GRID,
    tile: Tile | DecodeTile | None = None,
) -> Tensor:
    """The op; `grid` and `tile` replace the table's choice (benchmarks, tests)."""
    require_layout(pages, grid.block, lengths_B=lengths_B)
    if len(q_THD) == 0:
        return torch.empty_like(q_THD)
    keys, values = (_describe_pages(name, pages, grid.block) for name in ("keys_PGLD", "values_PGLD"))
    call = _Call(q_THD=q_THD, pages=pages, keys=keys, values=values, lengths_B=lengths_B, grid=grid)
    prepare_launch(q_THD)
    if cu_seqlens is None:
        chosen = tile if isinstance(tile, DecodeTile) else _DECODE.get(q_THD.dtype, _DECODE_HALF)
        return _decode(call, chosen)
    offsets = sequence_offsets(cu_seqlens, len(q_THD))
    longest = max(end - start for start, end in pairwise(offsets))
    rows = tile if isinstance(tile, Tile) else choose_tuning(q_THD.dtype, longest).forward
    return _attend_pieces(call, offsets, rows)


def append_keys(
    k_TGD: Tensor, v_TGD: Tensor, pages: KeyPages, positions_T: Tensor, cu_seqlens: Tensor | None = None
) -> None:
    """The op."""
    require_layout(pages, positions_T=positions_T)
    require(k_TGD.stride(2) == 1 and v_TGD.stride(2) == 1, "k_TGD and v_TGD must have a last stride of 1")
    num_tokens, num_heads, head_size = k_TGD.shape
    if num_tokens == 0:
        return
    sequence_T = positions_T
    if cu_seqlens is not None:
        sequence_T = _sequence_of_tokens(sequence_offsets(cu_seqlens, num_tokens), positions_T.device)
    keys_PGLD, values_PGLD, table_BN = pages.keys_PGLD, pages.values_PGLD, pages.table_BN
    append_rows_kernel[(num_tokens,)](
        k_TGD, v_TGD, keys_PGLD, values_PGLD, positions_T, sequence_T,
        positions_T if table_BN is None else table_BN,
        *k_TGD.stride()[:2], *v_TGD.stride()[:2], *keys_PGLD.stride()[:3], *values_PGLD.stride()[:3],
        0 if table_BN is None else table_BN.shape[1], pages.capacity, pages.page_length,
        KEY_HEADS=num_heads, D=head_size, BLOCK_G=triton.next_power_of_2(num_heads),
        PACKED=cu_seqlens is not None, TABLE=table_BN is not None, num_warps=4, **early_start(k_TGD),
    )  # fmt: skip


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _sequence_of_tokens(offsets: tuple[int, ...], device: torch.device) -> Tensor:
    lengths_B = torch.tensor([end - start for start, end in pairwise(offsets)])
    sequence_T = torch.repeat_interleave(torch.arange(len(lengths_B), dtype=torch.int32), lengths_B)
    # From pinned memory, so that nobody waits for the copy.
    return sequence_T.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else sequence_T


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    q_THD: Tensor
    pages: KeyPages
    keys: TensorDescriptor
    values: TensorDescriptor
    lengths_B: Tensor
    grid: KeyGrid

    @property
    def group(self) -> int:
        """Query heads of a key head."""
        return self.q_THD.shape[1] // self.pages.keys_PGLD.shape[1]

    @property
    def table(self) -> Tensor:
        """The page table, or something in its place that no kernel reads."""
        return self.lengths_B if self.pages.table_BN is None else self.pages.table_BN

    @property
    def num_columns(self) -> int:
        """Pages of a sequence."""
        return 1 if self.pages.table_BN is None else self.pages.table_BN.shape[1]


def _describe_pages(name: str, pages: KeyPages, block: int) -> TensorDescriptor:
    """Blocks [1, 1, block, D]. Caches are ours: one that lies askew is refused, not copied at each token."""
    x_PGLD: Tensor = getattr(pages, name)
    if describable(x_PGLD) is not x_PGLD:
        raise ValueError(
            f"{name} has strides {x_PGLD.stride()} and starts at byte {x_PGLD.data_ptr() % 16} of 16; bulk "
            f"copies need 16-byte aligned strides and start: allocate the pages as one dense tensor"
        )
    return TensorDescriptor(
        x_PGLD, list(x_PGLD.shape), [*outer_strides(x_PGLD), 1], [1, 1, block, x_PGLD.shape[3]]
    )


def _decode(call: _Call, tile: DecodeTile) -> Tensor:
    q_BHD = call.q_THD if call.q_THD.stride(2) == 1 else call.q_THD.contiguous()
    num_sequences, num_heads, head_size = q_BHD.shape
    num_key_heads, group = num_heads // call.group, call.group
    num_splits = triton.cdiv(call.pages.capacity, call.grid.split)
    is_whole = num_splits == 1
    num_parts = 0 if is_whole else num_sequences * num_heads * num_splits
    acc, maxima, sums = _scratch(q_BHD, num_parts, head_size)
    o_BHD = torch.empty(q_BHD.shape, dtype=q_BHD.dtype, device=q_BHD.device)
    decode_split_kernel[(num_splits, num_sequences * num_key_heads)](
        q_BHD, call.keys, call.values, o_BHD, maxima, sums, acc, call.lengths_B, call.table,
        score_scale(head_size), *q_BHD.stride()[:2], call.num_columns, call.pages.page_length, num_splits,
        KEY_HEADS=num_key_heads, GROUP=group, D=head_size, BLOCK_M=max(16, triton.next_power_of_2(group)),
        BLOCK_N=call.grid.block, SPLIT=call.grid.split, STAGES=tile.stages, COLUMNS=ROW_SUM_COLUMNS,
        TABLE=call.pages.table_BN is not None, WHOLE=is_whole, num_warps=tile.warps, num_stages=tile.stages,
        **early_start(q_BHD),
    )  # fmt: skip
    if not is_whole:
        merge_splits_kernel[(num_sequences * num_heads,)](
            o_BHD, maxima, sums, acc, call.lengths_B, num_splits,
            HEADS=num_heads, GROUP=group, D=head_size, SPLIT=call.grid.split, UNROLL=MERGE_UNROLL,
            num_warps=1, **early_start(q_BHD),
        )  # fmt: skip
    return o_BHD


def _scratch(q_BHD: Tensor, num_parts: int, head_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """One allocation: values, maxima and sums of all splits [B, G, S, R]."""
    sizes = [num_parts * head_size, num_parts, num_parts]
    acc, maxima, sums = torch.empty(sum(sizes), dtype=torch.float32, device=q_BHD.device).split(sizes)
    return acc, maxima, sums


def _attend_pieces(call: _Call, offsets: tuple[int, ...], tile: Tile) -> Tensor:
    q_THD, pages = describable(call.q_THD), call.pages
    num_heads, head_size = q_THD.shape[1:]
    o_THD = torch.empty(q_THD.shape, dtype=q_THD.dtype, device=q_THD.device)
    tiles = row_tiles(offsets, tile.rows, TileOrder.LATE_ROWS_FIRST, q_THD.device)
    attend_rows_kernel[(len(tiles) * num_heads,)](
        describe_rows(q_THD, tile.rows), call.keys, call.values, o_THD, o_THD,
        tiles, call.lengths_B, call.table,
        score_scale(head_size), 0, call.num_columns, pages.page_length,
        HEADS=num_heads, GROUP=call.group, D=head_size, BLOCK_M=tile.rows, BLOCK_N=call.grid.block,
        SPLIT=call.grid.split, STAGES=tile.stages, COLUMNS=ROW_SUM_COLUMNS, PAGED=True,
        TABLE=pages.table_BN is not None, STORE_LSE=False, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return o_THD
