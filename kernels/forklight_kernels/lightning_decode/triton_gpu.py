"""One decode step from the states before the open chunk: the packed pass's products, for one row.

A program owns one sequence and one head. It appends its row of k and v to the open chunk; when that fills the
chunk, it also writes the next state. Nothing is read on the host and the grid is fixed. Slots may lie apart.
Legend: B sequences, S slots, H heads, D head size, C places of the open chunk, BK rows of the state.
"""

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from forklight_kernels.launch import early_start, prepare_launch
from forklight_kernels.lightning_attention.chunks import MAX_CHUNK
from forklight_kernels.lightning_attention.triton_pass import next_state
from forklight_kernels.lightning_attention.triton_silu import active
from forklight_kernels.lightning_decode.types import DecodeStep, LightningMemory, open_chunk
from forklight_kernels.triton_order import follow
from forklight_kernels.triton_tiles import tensor_map


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeTiles:
    """What may be tuned without changing a bit of the output."""

    rows: int = 64
    """State rows at a time."""
    num_stages: int = 3
    """Blocks of the state, the keys and the query that are on their way at once."""
    num_warps: int = 4
    close_rows: int = 32
    """State rows at a time when a chunk is closed."""
    query_rows: int = 16
    """Rows of the tile whose first row is the query: the smallest that a product takes."""


HALF_TILES = DecodeTiles()
"""With 128 registers and 52 KiB, four programs a multiprocessor hide each other's waits for memory."""

EXACT_TILES = DecodeTiles(rows=16, num_stages=2, num_warps=8, close_rows=16)
"""fp32 products run outside the tensor cores, in much more code. For tests and truth runs."""


@triton.jit
def decode_kernel(
    Q, K, V, OUT, STATES, ROUNDED, ROUNDED_MAP, KEYS, VALUES, SLOPES, SLOTS, LENGTHS,
    q_row, q_head, k_row, k_head, v_row, v_head,
    states_slot, rounded_slot, keys_slot, values_slot, slots_row, lengths_row,
    H: tl.constexpr, D: tl.constexpr, C: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, BD: tl.constexpr,
    STAGES: tl.constexpr, HAS_SLOTS: tl.constexpr, SILU: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """ROUNDED_MAP is ROUNDED as [S, H * D, D]. Through it a block of the state takes no registers on its way,
    and a sequence still without a state asks for slot -1, which reads as zeros and moves nothing."""
    follow(EARLY)
    h, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    slot = b
    if HAS_SLOTS:
        slot = tl.load(SLOTS + b * slots_row).to(tl.int64)
    length = tl.load(LENGTHS + b * lengths_row)
    is_live, has_state = length >= 0, length >= C
    r = tl.where(is_live, length % C, -1).to(tl.int32)  # idle: before all places, so none is read
    s = tl.load(SLOPES + h)
    m, j, e = tl.arange(0, BM), tl.arange(0, C), tl.arange(0, D)
    query = tl.load(Q + b * q_row + h * q_head + e)
    new_k = tl.load(K + b * k_row + h * k_head + e)
    new_v = tl.load(V + b * v_row + h * v_head + e)
    if SILU:
        query, new_k, new_v = active(query), active(new_k), active(new_v)
    keys, values = KEYS + slot * keys_slot + h * (C * D), VALUES + slot * values_slot + h * (C * D)
    out = OUT + (b * H + h) * D
    # The query waits in the output's place, for the loop to take it from there in blocks, as it does keys.
    tl.store(out + e, query)
    tl.store(keys + r * D + e, new_k, mask=is_live)
    tl.store(values + r * D + e, new_v, mask=is_live)
    tl.debug_barrier()  # from here on the new row is a row of the chunk like the others
    known, is_query, is_asked = (j <= r)[:, None], (m == 0)[:, None], ((m == 0) & is_live)[:, None]
    v = tl.load(values + j[:, None] * D + e[None, :], mask=known, other=0.0)
    state_slot = tl.where(has_state, slot, -1).to(tl.int32)
    p, o = tl.zeros([BM, C], tl.float32), tl.zeros([BM, D], tl.float32)
    for first in tl.range(0, D, BK, num_stages=STAGES):
        d = first + tl.arange(0, BK)
        state = tl.reshape(ROUNDED_MAP.load([state_slot, h * D + first, 0]), [BK, D])
        k = tl.load(keys + j[:, None] * D + d[None, :], mask=known, other=0.0)
        q = tl.load(out + d[None, :] + m[:, None] * 0, mask=is_asked, other=0.0)
        p = tl.dot(q, tl.trans(k), p, input_precision="ieee")
        o = tl.dot(q, state, o, input_precision="ieee")
    v = tl.where(known, v, 0.0)  # changes nothing, but keeps v in registers until here, not in shared memory
    distance = r - j
    inside = tl.where(distance >= 0, tl.exp(-s * distance), 0.0)[None, :]
    p = (p * inside).to(v.dtype)
    o = tl.dot(p, v, o * tl.exp(-s * (r + 1)), input_precision="ieee")
    tl.store(out + e[None, :] + m[:, None] * 0, o.to(v.dtype), mask=is_query)
    if r == C - 1:
        tl.debug_barrier()  # all of the rounded state is in before any of it is replaced
        states, rounded = STATES + slot * states_slot, ROUNDED + slot * rounded_slot
        _close_chunk(states + h * (D * D), rounded + h * (D * D), keys, v, has_state, s, D, C, BD)


@triton.jit
def _close_chunk(STATE, ROUNDED, KEYS, v, has_state, s, D: tl.constexpr, C: tl.constexpr, BD: tl.constexpr):
    """The state after a whole chunk, and its rounded copy, over those before it."""
    j, e = tl.arange(0, C), tl.arange(0, D)
    writes, across = tl.exp(-s * tl.maximum(C - 1 - j, 0))[:, None], tl.exp(-s * C)
    for first in tl.range(0, D, BD, num_stages=2):
        rows = first + tl.arange(0, BD)
        k_rows = tl.load(KEYS + j[:, None] * D + rows[None, :])
        place = rows[:, None] * D + e[None, :]
        state = tl.load(STATE + place, mask=has_state, other=0.0)
        state = next_state(state, k_rows, v, writes, across)
        tl.store(STATE + place, state)
        tl.store(ROUNDED + place, state.to(v.dtype))


def tiles_for(dtype: torch.dtype, head_size: int) -> DecodeTiles:
    tiles = EXACT_TILES if dtype == torch.float32 else HALF_TILES
    return replace(tiles, rows=min(tiles.rows, head_size), close_rows=min(tiles.close_rows, head_size))


def lightning_decode(
    qkv: tuple[Tensor, Tensor, Tensor],
    slopes_H: Tensor,
    memory: LightningMemory,
    step: DecodeStep,
    tiles: DecodeTiles | None = None,
) -> Tensor:
    """Output [B, H, D]; memory and lengths as the door has checked them."""
    q_BHD, k_BHD, v_BHD = (part if part.stride(2) == 1 else part.contiguous() for part in qkv)
    batch, num_heads, head_size = q_BHD.shape
    tiles = tiles or tiles_for(v_BHD.dtype, head_size)
    chunk, lengths_B = open_chunk(memory), step.lengths_B
    assert lengths_B is not None
    slots_B = lengths_B if step.slots_B is None else step.slots_B
    rounded = chunk.rounded_SHDD
    o_BHD = torch.empty(q_BHD.shape, dtype=q_BHD.dtype, device=q_BHD.device)
    prepare_launch(q_BHD)
    decode_kernel[(num_heads, batch)](
        q_BHD, k_BHD, v_BHD, o_BHD, chunk.states_SHDD, rounded,
        tensor_map(rounded.flatten(1, 2), (1, tiles.rows, head_size)),
        chunk.keys_SHCD, chunk.values_SHCD, slopes_H.to(torch.float32), slots_B, lengths_B,
        q_BHD.stride(0), q_BHD.stride(1), k_BHD.stride(0), k_BHD.stride(1), v_BHD.stride(0), v_BHD.stride(1),
        chunk.states_SHDD.stride(0), rounded.stride(0),
        chunk.keys_SHCD.stride(0), chunk.values_SHCD.stride(0), slots_B.stride(0), lengths_B.stride(0),
        num_heads, head_size, MAX_CHUNK, tiles.query_rows, tiles.rows, tiles.close_rows, tiles.num_stages,
        step.slots_B is not None, step.applies_silu, num_warps=tiles.num_warps, **early_start(q_BHD),
    )  # fmt: skip
    return o_BHD
