"""How whole prompts enter a layer's memory: from a packed pass, or in pieces after tokens already there.

Legend: S slots, N sequences, T packed tokens, U packed tokens with open chunks before them, H heads, D head
size, C = 64 places of the open chunk, R rows of open chunks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from forklight_kernels.backend import Backend, backend_for
from forklight_kernels.checks import require
from forklight_kernels.lightning_attention import lightning_attention
from forklight_kernels.lightning_attention.chunks import MAX_CHUNK
from forklight_kernels.lightning_attention.types import LightningForm
from forklight_kernels.lightning_decode.types import LightningMemory, OpenChunk, open_chunk
from forklight_kernels.packing import sequence_offsets

Heads = tuple[Tensor, Tensor, Tensor]


@torch.no_grad()
def continue_lightning(
    qkv: Heads,
    slopes_H: Tensor,
    cu_seqlens: Tensor,
    memory: LightningMemory,
    slots_N: Tensor | None,
    seen: Sequence[int],
) -> Tensor:
    """Output [T, H, D] of tokens that follow the `seen` ones of each sequence; remembers them.

    q, k, v are given before silu. A sequence that has seen none starts from zero, whatever its slot holds.
    In the chunk form any cut of a prompt into pieces gives the bits of one piece: the open chunk's rows are
    put before the new ones, so that chunks stay counted from the sequence's first token. Cuts at multiples
    of 64 cost nothing extra. slots_N: distinct; None: sequence n is slot n.
    """
    offsets, seen = sequence_offsets(cu_seqlens, len(qkv[0])), tuple(seen)
    require(
        len(seen) == len(offsets) - 1 and min(seen) >= 0,
        f"seen is {seen[:8]}; expected a length of at least 0 for each of the {len(offsets) - 1} sequences",
    )
    if slots_N is None:
        slots_N = torch.arange(len(seen), device=slopes_H.device)
    open_rows = tuple(length % MAX_CHUNK for length in seen)
    if memory.has_open_chunk and any(open_rows):
        qkv, cu_seqlens, new_T = _after_open_rows(qkv, offsets, open_chunk(memory), slots_N, open_rows)
    else:
        new_T = None
    applies_silu = new_T is None
    form = LightningForm(
        initial_state=_states_before(memory, slots_N, seen),
        applies_silu=applies_silu,
        keeps_open_chunk=memory.has_open_chunk,
    )
    o_THD, states_NHDD = lightning_attention(*qkv, slopes_H, cu_seqlens, form)
    load_memory(memory, slots_N, states_NHDD, qkv[1:], cu_seqlens, applies_silu)
    return o_THD if new_T is None else o_THD.index_select(0, new_T)


def _states_before(memory: LightningMemory, slots_N: Tensor, seen: tuple[int, ...]) -> Tensor | None:
    if not any(seen):
        return None
    states_NHDD = memory.states_SHDD[slots_N]
    fresh = tuple(number for number, length in enumerate(seen) if length == 0)
    return states_NHDD.index_fill_(0, _index(fresh, slots_N.device), 0) if fresh else states_NHDD


@torch.no_grad()
def load_memory(
    memory: LightningMemory,
    slots_N: Tensor,
    states_NHDD: Tensor,
    keys_values: tuple[Tensor, Tensor],
    cu_seqlens: Tensor,
    applies_silu: bool,
) -> None:
    """Remember a packed pass that began at a chunk's start: its states (in the chunk form those that
    `keeps_open_chunk` returns), and the keys and values after the last whole chunk."""
    memory.states_SHDD[slots_N] = states_NHDD.to(memory.states_SHDD.dtype)
    if not memory.has_open_chunk:
        return
    chunk = open_chunk(memory)
    chunk.rounded_SHDD[slots_N] = states_NHDD.to(chunk.rounded_SHDD.dtype)
    offsets = sequence_offsets(cu_seqlens, len(keys_values[0]))
    source_R, sequence_R, place_R = _tail_rows(offsets, slots_N.device)
    if len(source_R) == 0:
        return
    slots_R = slots_N[sequence_R]
    for cached_SHCD, part_THD in zip((chunk.keys_SHCD, chunk.values_SHCD), keys_values, strict=True):
        rows_RHD = part_THD.index_select(0, source_R)
        cached_SHCD[slots_R, :, place_R] = _activated(rows_RHD) if applies_silu else rows_RHD


def _after_open_rows(
    qkv: Heads, offsets: tuple[int, ...], chunk: OpenChunk, slots_N: Tensor, open_rows: tuple[int, ...]
) -> tuple[Heads, Tensor, Tensor]:
    """q, k, v after silu with each open chunk's rows first (their queries are zeros: nobody asks for them),
    the longer cu_seqlens, and where the new tokens lie."""
    rows = _joined_rows(offsets, open_rows, slots_N.device)
    slots_R, joined = slots_N[rows.sequence_R], []
    for part_THD, cached_SHCD in zip(qkv, (None, chunk.keys_SHCD, chunk.values_SHCD), strict=True):
        shape = (rows.num_tokens, *part_THD.shape[1:])
        joined_UHD = torch.zeros(shape, dtype=part_THD.dtype, device=part_THD.device)
        if cached_SHCD is not None:
            joined_UHD[rows.old_R] = cached_SHCD[slots_R, :, rows.place_R]
        joined_UHD[rows.new_T] = _activated(part_THD)
        joined.append(joined_UHD)
    return (joined[0], joined[1], joined[2]), rows.cu_seqlens, rows.new_T


def _activated(x_THD: Tensor) -> Tensor:
    """silu with the bits that the backend's own kernels give it."""
    if backend_for(x_THD) is Backend.TRITON:
        from forklight_kernels.lightning_attention import triton_silu

        return triton_silu.activated(x_THD)
    return torch.nn.functional.silu(x_THD)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _tail_rows(offsets: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of the rows after each sequence's last whole chunk: packed row, sequence, place in the open chunk."""
    source, sequence, place = [], [], []
    for number, (start, end) in enumerate(pairwise(offsets)):
        for row in range(end - (end - start) % MAX_CHUNK, end):
            source.append(row)
            sequence.append(number)
            place.append((row - start) % MAX_CHUNK)
    return _index(source, device), _index(sequence, device), _index(place, device)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _JoinedRows:
    """Open chunks and new tokens in one packed buffer."""

    num_tokens: int
    cu_seqlens: Tensor
    old_R: Tensor
    sequence_R: Tensor
    place_R: Tensor
    new_T: Tensor


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _joined_rows(offsets: tuple[int, ...], open_rows: tuple[int, ...], device: torch.device) -> _JoinedRows:
    ends = [0]
    old: list[int] = []
    sequence: list[int] = []
    place: list[int] = []
    new: list[int] = []
    for number, ((start, end), num_open) in enumerate(zip(pairwise(offsets), open_rows, strict=True)):
        first = ends[-1]
        old += range(first, first + num_open)
        sequence += [number] * num_open
        place += range(num_open)
        new += range(first + num_open, first + num_open + end - start)
        ends.append(first + num_open + end - start)
    return _JoinedRows(
        num_tokens=ends[-1],
        cu_seqlens=_index(ends, device).to(torch.int32),
        old_R=_index(old, device),
        sequence_R=_index(sequence, device),
        place_R=_index(place, device),
        new_T=_index(new, device),
    )


def _index(numbers: Sequence[int], device: torch.device) -> Tensor:
    """int64 on the device; from pinned memory, so that nobody waits for the copy."""
    index = torch.tensor(numbers, dtype=torch.int64)
    return index.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else index.to(device)
