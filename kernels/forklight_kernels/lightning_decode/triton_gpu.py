"""One decode step from the states before the open chunk: the packed pass's products, for one row.

A program owns one sequence, one head and some columns of the state. It appends its part of k and v to the
open chunk; when that fills the chunk, it also writes its columns of the next state. Nothing is read on the
host and the grid is fixed. Legend: B sequences, S slots, H heads, D head size, C places of the open chunk.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from forklight_kernels.lightning_attention.chunks import MAX_CHUNK
from forklight_kernels.lightning_attention.triton_pass import next_state
from forklight_kernels.lightning_attention.triton_silu import active
from forklight_kernels.lightning_decode.types import DecodeStep, LightningMemory, open_chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeTiles:
    """What may be tuned without changing a bit of the output."""

    columns: int = 64
    """State columns of a program."""
    num_warps: int = 4
    close_rows: int = 32
    """State rows at a time when a chunk is closed."""
    query_rows: int = 16
    """Rows of the tile whose first row is the query: the smallest that a product takes."""


@triton.jit
def decode_kernel(
    Q, K, V, OUT, STATES, ROUNDED, KEYS, VALUES, SLOPES, SLOTS, LENGTHS,
    q_row, q_head, k_row, k_head, v_row, v_head,
    H: tl.constexpr, D: tl.constexpr, C: tl.constexpr, BM: tl.constexpr, BV: tl.constexpr, BD: tl.constexpr,
    HAS_SLOTS: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    pv, h, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    slot = b
    if HAS_SLOTS:
        slot = tl.load(SLOTS + b).to(tl.int64)
    length = tl.load(LENGTHS + b)
    is_live = length >= 0
    r = (tl.maximum(length, 0) % C).to(tl.int32)  # an idle row writes nothing, so any place will do
    s = tl.load(SLOPES + h)
    m, j, d, e = tl.arange(0, BM), tl.arange(0, C), tl.arange(0, D), pv * BV + tl.arange(0, BV)
    at = slot * H + h
    state_at, chunk_at = at * (D * D), at * (C * D)
    is_query = (m == 0)[:, None]
    query = tl.load(Q + b * q_row + h * q_head + d)
    new_k = tl.load(K + b * k_row + h * k_head + d)
    new_v = tl.load(V + b * v_row + h * v_head + e)
    if SILU:
        query, new_k, new_v = active(query), active(new_k), active(new_v)
    q = tl.where(is_query, query[None, :], 0.0).to(query.dtype)
    old = (j < r)[:, None]
    k = tl.load(KEYS + chunk_at + j[:, None] * D + d[None, :], mask=old, other=0.0)
    v = tl.load(VALUES + chunk_at + j[:, None] * D + e[None, :], mask=old, other=0.0)
    read = tl.load(ROUNDED + state_at + d[:, None] * D + e[None, :])
    new = (j == r)[:, None]
    k, v = tl.where(new, new_k[None, :], k), tl.where(new, new_v[None, :], v)
    if (pv == 0) & is_live:  # no other program reads this row of the cache: each has it as new_k
        tl.store(KEYS + chunk_at + r * D + d, new_k)
    tl.store(VALUES + chunk_at + r * D + e, new_v, mask=is_live)
    distance = r - j
    inside = tl.where(distance >= 0, tl.exp(-s * distance), 0.0)[None, :]
    p = (tl.dot(q, tl.trans(k), input_precision="ieee") * inside).to(v.dtype)
    o = tl.dot(q, read, input_precision="ieee") * tl.exp(-s * (r + 1))
    o = tl.dot(p, v, o, input_precision="ieee")
    tl.store(OUT + (b * H + h) * D + e[None, :] + m[:, None] * 0, o.to(v.dtype), mask=is_query)
    if r == C - 1:
        tl.debug_barrier()  # all of `read` is in before any of it is replaced
        writes, across = tl.exp(-s * tl.maximum(C - 1 - j, 0))[:, None], tl.exp(-s * C)
        for first in tl.range(0, D, BD, num_stages=1):
            rows = first + tl.arange(0, BD)
            k_rows = tl.load(KEYS + chunk_at + j[:, None] * D + rows[None, :], mask=old, other=0.0)
            new_rows = tl.load(K + b * k_row + h * k_head + rows)
            if SILU:
                new_rows = active(new_rows)
            k_rows = tl.where(new, new_rows[None, :], k_rows)
            place = state_at + rows[:, None] * D + e[None, :]
            state = next_state(tl.load(STATES + place), k_rows, v, writes, across)
            tl.store(STATES + place, state)
            tl.store(ROUNDED + place, state.to(v.dtype))


def tiles_for(dtype: torch.dtype, head_size: int) -> DecodeTiles:
    """fp32 products run outside the tensor cores, in much more code: fewer columns."""
    if dtype == torch.float32:
        block = min(32, head_size)
        return DecodeTiles(columns=block, close_rows=block)
    return DecodeTiles(columns=min(64, head_size), close_rows=min(32, head_size))


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
    chunk = open_chunk(memory)
    o_BHD = torch.empty(q_BHD.shape, dtype=q_BHD.dtype, device=q_BHD.device)
    decode_kernel[(head_size // tiles.columns, num_heads, batch)](
        q_BHD, k_BHD, v_BHD, o_BHD,
        chunk.states_SHDD, chunk.rounded_SHDD, chunk.keys_SHCD, chunk.values_SHCD, slopes_H.to(torch.float32),
        step.lengths_B if step.slots_B is None else step.slots_B, step.lengths_B,
        q_BHD.stride(0), q_BHD.stride(1), k_BHD.stride(0), k_BHD.stride(1), v_BHD.stride(0), v_BHD.stride(1),
        num_heads, head_size, MAX_CHUNK, tiles.query_rows, tiles.columns, tiles.close_rows,
        step.slots_B is not None, step.applies_silu, num_warps=tiles.num_warps,
    )  # fmt: skip
    return o_BHD
