"""Launches of the norm kernels, with or without a gate: tiles, alignment, the weight's gradient.

Legend: T tokens, D width, P programs of the backward pass.
"""

from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

from forklight_kernels.launch import early_start, num_multiprocessors
from forklight_kernels.rms_norm.triton_kernels import norm_backward, norm_forward, sum_partials

STRIDE_UNIT = 16
"""Elements: a width that is a multiple of it is read in whole 16-byte pieces."""

ALIGNMENT_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class NormTile:
    """All that may be tuned. The forward's block and warps are part of its bits: by the width alone."""

    forward_block: int
    forward_warps: int
    backward_block: int
    backward_warps: int
    backward_stages: int
    """Rows in flight a program: above 1, the next row's loads start before this row's sum."""
    programs_per_multiprocessor: int
    """In the backward pass; each leaves one row of partial sums."""
    rows_per_program: int | None = None
    """In the forward pass; None: by the number of rows. No part of the bits."""


def tile_for(width: int, has_gate: bool) -> NormTile:
    """The tile for rows of this width."""
    block = triton.next_power_of_2(width)
    if block <= 4096:
        warps = max(1, block // 512)
        return NormTile(
            forward_block=block,
            forward_warps=warps,
            backward_block=block,
            backward_warps=warps,
            backward_stages=1,
            programs_per_multiprocessor=min(16, max(2, 24 // warps)),
        )
    wide = NormTile(
        forward_block=min(block, 16384),
        forward_warps=8 if block == 8192 else 16,
        backward_block=8192,
        backward_warps=8,
        backward_stages=1,
        programs_per_multiprocessor=2,
    )
    if has_gate and block == 8192:  # three rows in registers leave room for one program only
        return replace(wide, backward_warps=16, backward_stages=2, programs_per_multiprocessor=1)
    return wide


def run_forward(
    x_TD: Tensor, gate_TD: Tensor | None, weight_D: Tensor, eps: float, tile: NormTile | None
) -> tuple[Tensor, Tensor]:
    """The normed rows, and 1 / rms of each in fp32 for the backward pass.

    The latter is written always: with and without a gradient, the same compiled kernel must run.
    """
    num_rows, width = x_TD.shape
    tile = tile or tile_for(width, gate_TD is not None)
    y_TD = torch.empty((num_rows, width), dtype=x_TD.dtype, device=x_TD.device)
    inverse_T = torch.empty(num_rows, dtype=torch.float32, device=x_TD.device)
    if num_rows == 0:
        return y_TD, inverse_T
    x_TD, x_stride = aligned_rows(x_TD)
    gate_rows_TD, gate_stride = aligned_rows(x_TD if gate_TD is None else gate_TD)
    rows = tile.rows_per_program or max(1, min(4, num_rows // (32 * num_multiprocessors(x_TD))))
    num_blocks = triton.cdiv(width, tile.forward_block)
    norm_forward[(triton.cdiv(num_rows, rows), num_blocks)](
        *(x_TD, gate_rows_TD, _aligned(weight_D), y_TD, inverse_T),
        *(num_rows, rows, x_stride, gate_stride, eps),
        WIDTH=width,
        BLOCK=tile.forward_block,
        NUM_BLOCKS=num_blocks,
        STRIDE_UNIT=_stride_unit(width),
        HAS_GATE=gate_TD is not None,
        num_warps=tile.forward_warps,
        **early_start(x_TD),
    )
    return y_TD, inverse_T


def run_backward(
    dy_TD: Tensor,
    x_TD: Tensor,
    gate_TD: Tensor | None,
    weight_D: Tensor,
    inverse_T: Tensor,
    tile: NormTile | None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Gradients of x, of the gate if there is one, and of the weight."""
    num_rows, width = x_TD.shape
    tile = tile or tile_for(width, gate_TD is not None)
    dx_TD = torch.empty((num_rows, width), dtype=x_TD.dtype, device=x_TD.device)
    dgate_TD = None if gate_TD is None else torch.empty_like(dx_TD)
    if num_rows == 0:
        return dx_TD, dgate_TD, torch.zeros_like(weight_D)
    rows = triton.cdiv(num_rows, tile.programs_per_multiprocessor * num_multiprocessors(x_TD))
    num_programs = triton.cdiv(num_rows, rows)
    partial_PD = torch.empty((num_programs, width), dtype=torch.float32, device=x_TD.device)
    x_TD, x_stride = aligned_rows(x_TD)
    dy_TD, dy_stride = aligned_rows(dy_TD)
    gate_rows_TD, gate_stride = aligned_rows(x_TD if gate_TD is None else gate_TD)
    num_blocks = triton.cdiv(width, tile.backward_block)
    norm_backward[(num_programs, num_blocks)](
        *(x_TD, gate_rows_TD, dy_TD, _aligned(weight_D), inverse_T),
        *(dx_TD, dx_TD if dgate_TD is None else dgate_TD, partial_PD),
        *(num_rows, rows, x_stride, gate_stride, dy_stride),
        WIDTH=width,
        BLOCK=tile.backward_block,
        NUM_BLOCKS=num_blocks,
        STRIDE_UNIT=_stride_unit(width),
        HAS_GATE=gate_TD is not None,
        STAGES=tile.backward_stages,
        num_warps=tile.backward_warps,
    )
    return dx_TD, dgate_TD, _summed(partial_PD, weight_D.dtype)


def _summed(partial_PD: Tensor, dtype: torch.dtype) -> Tensor:
    num_partials, width = partial_PD.shape
    out_D = torch.empty(width, dtype=dtype, device=partial_PD.device)
    sum_partials[(triton.cdiv(width, 16),)](
        partial_PD, out_D, num_partials, WIDTH=width, ROWS=256, COLUMNS=16, num_warps=8
    )
    return out_D


def aligned_rows(x_TD: Tensor) -> tuple[Tensor, int]:
    """Rows that a kernel may read, and their stride in the units that it counts in.

    A view keeps its place where its rows lie as a contiguous tensor's would (to 16 elements); else it is
    copied. So the compiler cuts every row of a width into the same pieces, and their sum has the same bits
    wherever the row came from.
    """
    num_rows, width = x_TD.shape
    unit = _stride_unit(width)
    stride = x_TD.stride(0) if num_rows > 1 else width
    has_unit_columns = x_TD.stride(1) == 1 or width == 1
    if has_unit_columns and stride % unit == 0 and x_TD.data_ptr() % ALIGNMENT_BYTES == 0:
        return x_TD, stride // unit
    return x_TD.clone(memory_format=torch.contiguous_format), width // unit


def _aligned(weight_D: Tensor) -> Tensor:
    """A weight may be a piece of an optimizer's flat buffer and start anywhere."""
    if weight_D.is_contiguous() and weight_D.data_ptr() % ALIGNMENT_BYTES == 0:
        return weight_D
    return weight_D.clone(memory_format=torch.contiguous_format)


def _stride_unit(width: int) -> int:
    return STRIDE_UNIT if width % STRIDE_UNIT == 0 else 1
