"""Launches of the lightning kernels: descriptors of strided tensors, tiles by shape, passes as functions.

Legend: T tokens, H heads, D head size, N sequences, S segments.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from forklight_kernels.launch import num_multiprocessors
from forklight_kernels.lightning_attention.segments import CHUNK, Walks, choose_segment_rows, plan_walks
from forklight_kernels.lightning_attention.triton_pass import chain_kernel, pass_kernel, scan_kernel

Parts = tuple[Tensor, Tensor, Tensor]
ALIGNMENT_BYTES = 16
SCAN_BLOCK, SCAN_GROUP = 128, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """What may be tuned without changing a bit of the output."""

    columns: int = 64
    """State columns of a program in a pass."""
    num_warps: int = 4
    num_stages: int = 4
    chain_rows: int = 64
    chain_columns: int = 16
    chain_stages: int = 6
    activates_first: bool = True
    """silu in a pass of its own, not in the loads (two programs a head load the same q and k)."""
    segment_rows: int | None = None
    """None: chosen by the lengths; 0: never cut a sequence; else a power of two of chunks."""


def tiles_for(dtype: torch.dtype, head_size: int) -> Tiles:
    """fp32 products run outside the tensor cores and fill much more code, so few columns on many warps."""
    if dtype == torch.float32:
        num_warps = {128: 16, 64: 16, 32: 8, 16: 4}[head_size]
        block = min(32, head_size)
        return Tiles(
            columns=16 if head_size == 128 else block, num_warps=num_warps, num_stages=2,
            chain_rows=block, chain_columns=block, chain_stages=2,
        )  # fmt: skip
    return Tiles(
        columns=min(64, head_size), chain_rows=min(64, head_size), chain_columns=min(16, head_size),
    )  # fmt: skip


def walks_for(offsets: tuple[int, ...], like_THD: Tensor, tiles: Tiles) -> Walks:
    """The tables for these lengths, sequences cut where whole ones would leave the GPU idle."""
    _, num_heads, head_size = like_THD.shape
    rows = tiles.segment_rows
    if rows is None:
        programs = num_heads * (head_size // tiles.columns)
        rows = choose_segment_rows(offsets, programs, num_multiprocessors(like_THD))
    return plan_walks(offsets, rows, like_THD.device)


def loadable(x_THD: Tensor) -> Tensor:
    """The tensor itself if TMA can read it (rows outermost, aligned), else a contiguous copy."""
    num_tokens, num_heads, head_size = x_THD.shape
    row, head, unit = x_THD.stride()
    is_aligned = (
        x_THD.data_ptr() % ALIGNMENT_BYTES == 0 and (row * x_THD.element_size()) % ALIGNMENT_BYTES == 0
    )
    is_row_major = num_tokens == 1 or row >= (num_heads - 1) * head + head_size
    if unit == 1 and is_aligned and is_row_major:
        return x_THD
    return x_THD.clone(memory_format=torch.contiguous_format)  # contiguous() may return the unaligned one


def descriptor(x_THD: Tensor, columns: int) -> TensorDescriptor:
    """[C, columns] tiles of the tensor seen as rows of heads: head h begins at column h * its stride."""
    num_tokens, num_heads, head_size = x_THD.shape
    width = (num_heads - 1) * x_THD.stride(1) + head_size
    step = ALIGNMENT_BYTES // x_THD.element_size()
    row = x_THD.stride(0) if num_tokens > 1 else -(-width // step) * step
    return TensorDescriptor(x_THD, [num_tokens, width], [row, 1], [CHUNK, columns])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pass:
    """One launch of pass_kernel: out = f(a, b, v)."""

    operands: Parts
    silu: tuple[bool, bool, bool] = (False, False, False)
    out: Tensor
    before_silu: Tensor | None = None
    """The output is a gradient and is multiplied by silu' of this."""
    is_reverse: bool = False
    before: Tensor | None = None
    """States to start from, fp32 [lines, H, D, D]."""
    is_transposed: bool = False
    after: Tensor | None = None
    """Where the last states go."""
    keeps_open_chunk: bool = False


def run_pass(call: Pass, lines: Tensor, slopes_H: Tensor, tiles: Tiles) -> None:
    """Walk every line of the table (its third number picks the state before, its fourth the one after)."""
    a, b, v = call.operands
    _, num_heads, head_size = v.shape
    x = v if call.before_silu is None else call.before_silu
    columns = tiles.columns
    described = [descriptor(part, head_size) for part in (a, b)]
    described += [descriptor(part, columns) for part in (v, call.out, x)]
    pass_kernel[(head_size // columns, num_heads, len(lines))](
        *described, call.out, lines, slopes_H,
        lines if call.before is None else call.before,
        lines if call.after is None else call.after,
        a.stride(1), b.stride(1), v.stride(1), call.out.stride(1), x.stride(1), call.out.stride(0),
        num_heads, head_size, CHUNK, columns, tiles.num_stages,
        call.is_reverse, call.before is not None, call.is_transposed, call.after is not None,
        call.keeps_open_chunk, *call.silu, call.before_silu is not None, v.dtype == torch.float32,
        num_warps=tiles.num_warps,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chain:
    """One launch of chain_kernel: the state that b and v make, without outputs."""

    operands: tuple[Tensor, Tensor]
    silu: bool = False
    silu_of_values: bool = True
    """False: silu, if any, is of the first operand alone."""
    is_reverse: bool = False
    initial: Tensor | None = None
    boundaries: Tensor | None = None
    """Where the states before segments go."""
    segment_rows: int = CHUNK
    after: Tensor
    keeps_open_chunk: bool = False


def run_chain(call: Chain, lines: Tensor, slopes_H: Tensor, tiles: Tiles) -> None:
    """Walk every line of the table (its third number picks the states' place, its fourth the first
    boundary)."""
    b, v = call.operands
    _, num_heads, head_size = v.shape
    rows, columns = tiles.chain_rows, tiles.chain_columns
    grid = ((head_size // rows) * (head_size // columns), num_heads, len(lines))
    chain_kernel[grid](
        descriptor(b, rows), descriptor(v, columns), lines, slopes_H,
        lines if call.initial is None else call.initial,
        lines if call.boundaries is None else call.boundaries,
        call.after, b.stride(1), v.stride(1), call.segment_rows // CHUNK,
        num_heads, head_size, CHUNK, rows, columns, tiles.chain_stages,
        call.is_reverse, call.initial is not None, call.boundaries is not None, call.keeps_open_chunk,
        call.silu, call.silu and call.silu_of_values, num_warps=4,
    )  # fmt: skip


def states_between_segments(call: Chain, walks: Walks, slopes_H: Tensor, tiles: Tiles) -> Tensor:
    """The states before every segment (reverse: after it), in call.after. For gradients only: every segment
    is summed on its own, at once, and the sums are then added up."""
    _, num_heads, head_size = call.operands[0].shape
    run_chain(replace(call, initial=None), walks.lines_S4, slopes_H, tiles)
    block = min(SCAN_BLOCK, head_size * head_size)
    scan_kernel[(head_size * head_size // block, num_heads, walks.num_sequences)](
        call.after, walks.spans_N2, walks.lines_S4, slopes_H,
        walks.spans_N2 if call.initial is None else call.initial,
        num_heads, head_size, block, SCAN_GROUP, call.is_reverse, call.initial is not None, num_warps=4,
    )  # fmt: skip
    return call.after
