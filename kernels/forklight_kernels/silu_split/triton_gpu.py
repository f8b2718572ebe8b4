"""silu_split on a GPU: one elementwise kernel each way.

Legend: T tokens, W = heads * 3 * head size.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from forklight_kernels.backend import TRITON_DTYPES
from forklight_kernels.checks import require_dtype
from forklight_kernels.gradient import Context, needs_gradient
from forklight_kernels.heads import joined_heads, split_heads
from forklight_kernels.triton_math import sigmoid, silu


@dataclass(frozen=True, slots=True, kw_only=True)
class SiluTile:
    """Elements and warps a program. No part of the bits: every element stands alone."""

    block: int = 2048
    num_warps: int = 4


def silu_split(x_TW: Tensor, num_heads: int, tile: SiluTile | None = None) -> tuple[Tensor, Tensor, Tensor]:
    require_dtype("x_TW", x_TW, TRITON_DTYPES)
    tile = tile or SiluTile()
    if needs_gradient(x_TW):
        q_THD, k_THD, v_THD = _SiluSplit.apply(x_TW, num_heads, tile)
        return q_THD, k_THD, v_THD
    return _split(_active(x_TW, tile), num_heads)


def _split(active_TW: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    q_THD, k_THD, v_THD = split_heads(
        active_TW.view(len(active_TW), num_heads, active_TW.shape[1] // num_heads), 3
    )
    return q_THD, k_THD, v_THD


class _Context(Context):
    tile: SiluTile


class _SiluSplit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, x_TW: Tensor, num_heads: int, tile: SiluTile) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(x_TW)
        ctx.tile = tile
        return _split(_active(x_TW, tile), num_heads)

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x_TW,) = ctx.saved_tensors
        dactive_TW = joined_heads(*gradients).view(x_TW.shape)
        return _pulled_back(x_TW, dactive_TW, ctx.tile), None, None


def _active(x_TW: Tensor, tile: SiluTile) -> Tensor:
    return _launched(_forward_kernel, x_TW, (), tile)


def _pulled_back(x_TW: Tensor, dactive_TW: Tensor, tile: SiluTile) -> Tensor:
    return _launched(_backward_kernel, x_TW, (dactive_TW,), tile)


def _launched(kernel: triton.JITFunction, x_TW: Tensor, more: tuple[Tensor, ...], tile: SiluTile) -> Tensor:
    """A contiguous x is walked as one long row, another row by row. All else is contiguous."""
    if x_TW.stride(1) != 1:
        x_TW = x_TW.contiguous()
    is_flat = x_TW.is_contiguous()
    num_rows, width = (1, x_TW.numel()) if is_flat else x_TW.shape
    out_TW = torch.empty(x_TW.shape, dtype=x_TW.dtype, device=x_TW.device)
    num_blocks = triton.cdiv(width, tile.block)
    if x_TW.numel() > 0:
        kernel[(num_rows * num_blocks,)](
            *(x_TW, *more, out_TW, width, x_TW.stride(0), num_blocks),
            BLOCK=tile.block,
            IS_FLAT=is_flat,
            num_warps=tile.num_warps,
        )
    return out_TW


@triton.jit
def _place(blocks_per_row, BLOCK: tl.constexpr, IS_FLAT: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    if IS_FLAT:
        row = program * 0
    else:
        row = program // blocks_per_row
    return row, (program - row * blocks_per_row) * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def _forward_kernel(X, Y, width, x_stride, blocks_per_row, BLOCK: tl.constexpr, IS_FLAT: tl.constexpr):
    row, column = _place(blocks_per_row, BLOCK, IS_FLAT)
    x = tl.load(X + row * x_stride + column, mask=column < width).to(tl.float32)
    tl.store(Y + row * width + column, silu(x).to(Y.dtype.element_ty), mask=column < width)


@triton.jit
def _backward_kernel(X, DY, DX, width, x_stride, blocks_per_row, BLOCK: tl.constexpr, IS_FLAT: tl.constexpr):
    row, column = _place(blocks_per_row, BLOCK, IS_FLAT)
    x = tl.load(X + row * x_stride + column, mask=column < width).to(tl.float32)
    dy = tl.load(DY + row * width + column, mask=column < width).to(tl.float32)
    opening = sigmoid(x)
    dx = dy * opening * tl.fma(x, 1.0 - opening, 1.0)
    tl.store(DX + row * width + column, dx.to(DX.dtype.element_ty), mask=column < width)
