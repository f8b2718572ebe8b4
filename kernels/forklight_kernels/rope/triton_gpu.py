"""rope on a GPU: one program a token turns its queries, and its keys in the same launch.

Legend: T tokens, H query heads, G key heads, D head size, R rotated dims, F = R / 2 pairs.
"""

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from forklight_kernels.backend import TRITON_DTYPES
from forklight_kernels.checks import require_dtype, require_head_size
from forklight_kernels.gradient import Context, needs_gradient
from forklight_kernels.launch import early_start
from forklight_kernels.rope.frequencies import rotary_frequencies
from forklight_kernels.triton_order import follow


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeTile:
    """Elements of queries a program and a warp. No part of the bits: every pair stands alone.

    With 4 warps for 2,048 the compiler computes one cosine a thread, and not the same eight in each.
    """

    elements: int = 2048
    elements_per_warp: int = 512


def rope(
    heads: tuple[Tensor, ...],
    positions_T: Tensor,
    rotary_dim: int,
    theta: float,
    tile: RopeTile | None = None,
) -> tuple[Tensor, ...]:
    """One or two tensors [T, H, D], turned in one launch."""
    require_dtype("x_THD", heads[0], TRITON_DTYPES)
    require_head_size("x_THD", heads[0])
    turn = _Turn(
        positions_T=positions_T.contiguous(),
        frequencies_F=rotary_frequencies(rotary_dim, theta, heads[0].device),
        tile=tile or RopeTile(),
    )
    if needs_gradient(*heads):
        turned: tuple[Tensor, ...] = _Rope.apply(turn, *heads)
        return turned
    return _turned(heads, turn)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Turn:
    """By how much each token is turned."""

    positions_T: Tensor
    frequencies_F: Tensor
    tile: RopeTile
    is_inverse: bool = False


class _Context(Context):
    turn: _Turn


class _Rope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, turn: _Turn, *heads: Tensor) -> tuple[Tensor, ...]:
        ctx.turn = turn
        return _turned(heads, turn)

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """A turn is undone by the opposite turn, which is also its transpose."""
        return None, *_turned(gradients, replace(ctx.turn, is_inverse=True))


def _turned(heads: tuple[Tensor, ...], turn: _Turn) -> tuple[Tensor, ...]:
    heads = tuple(x if x.stride(-1) == 1 else x.contiguous() for x in heads)
    turned = tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in heads)
    first, last = heads[0], heads[-1]
    num_tokens, num_heads, head_size = first.shape
    num_keys = last.shape[1] if len(heads) > 1 else 0
    if num_tokens == 0 or num_heads + num_keys == 0:
        return turned
    head_block = min(triton.next_power_of_2(num_heads), turn.tile.elements // head_size)
    num_blocks = triton.cdiv(num_heads, head_block)
    _turn_kernel[(num_tokens, num_blocks)](
        *(first, last, turned[0], turned[-1], turn.positions_T, turn.frequencies_F),
        *(first.stride(0), first.stride(1), last.stride(0), last.stride(1)),
        NUM_HEADS=num_heads,
        NUM_KEYS=num_keys,
        HEAD_BLOCK=head_block,
        KEY_BLOCK=triton.next_power_of_2(triton.cdiv(num_keys, num_blocks)),
        HEAD_SIZE=head_size,
        NUM_PAIRS=len(turn.frequencies_F),
        IS_INVERSE=turn.is_inverse,
        num_warps=max(1, head_block * head_size // turn.tile.elements_per_warp),
        **early_start(first),
    )
    return turned


@triton.jit
def _turn_kernel(
    Q,
    K,
    Q_OUT,
    K_OUT,
    POSITIONS,
    FREQUENCIES,
    q_token_stride,
    q_head_stride,
    k_token_stride,
    k_head_stride,
    NUM_HEADS: tl.constexpr,
    NUM_KEYS: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    KEY_BLOCK: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    NUM_PAIRS: tl.constexpr,
    IS_INVERSE: tl.constexpr,
    EARLY: tl.constexpr,
):
    follow(EARLY)
    token = tl.program_id(0).to(tl.int64)
    Q += token * q_token_stride
    Q_OUT += token * NUM_HEADS * HEAD_SIZE
    head = tl.program_id(1) * HEAD_BLOCK + tl.arange(0, HEAD_BLOCK)
    q, q_partner = _load_heads(Q, q_head_stride, head, NUM_HEADS, HEAD_SIZE, NUM_PAIRS)
    if NUM_KEYS > 0:
        K += token * k_token_stride
        K_OUT += token * NUM_KEYS * HEAD_SIZE
        key = tl.program_id(1) * KEY_BLOCK + tl.arange(0, KEY_BLOCK)
        k, k_partner = _load_heads(K, k_head_stride, key, NUM_KEYS, HEAD_SIZE, NUM_PAIRS)
    dim = tl.arange(0, HEAD_SIZE)
    pair = tl.where(dim < NUM_PAIRS, dim, dim - NUM_PAIRS)
    is_turned = dim < 2 * NUM_PAIRS
    frequency = tl.load(FREQUENCIES + pair, mask=is_turned, other=0.0)
    # The angle is rounded to fp32 as the published code does. Its cosine is libdevice's, right at any size.
    angle = tl.load(POSITIONS + token).to(tl.float32) * frequency
    cosine, sine = tl.cos(angle), tl.sin(angle)
    if IS_INVERSE:
        sine = -sine
    sine = tl.where(dim < NUM_PAIRS, -sine, sine)
    _store_heads(Q_OUT, q, q_partner, cosine, sine, head, NUM_HEADS, HEAD_SIZE, NUM_PAIRS)
    if NUM_KEYS > 0:
        _store_heads(K_OUT, k, k_partner, cosine, sine, key, NUM_KEYS, HEAD_SIZE, NUM_PAIRS)


@triton.jit
def _load_heads(
    X, head_stride, head, NUM_HEADS: tl.constexpr, HEAD_SIZE: tl.constexpr, NUM_PAIRS: tl.constexpr
):
    """Heads of a token, and beside each rotated dim the other one of its pair."""
    is_head = (head < NUM_HEADS)[:, None]
    dim = tl.arange(0, HEAD_SIZE)[None, :]
    other = tl.where(dim < NUM_PAIRS, dim + NUM_PAIRS, dim - NUM_PAIRS)
    x = tl.load(X + head[:, None] * head_stride + dim, mask=is_head, other=0.0)
    is_turned = is_head & (dim < 2 * NUM_PAIRS)
    return x, tl.load(X + head[:, None] * head_stride + other, mask=is_turned, other=0.0)


@triton.jit
def _store_heads(
    OUT,
    x,
    partner,
    cosine,
    sine,
    head,
    NUM_HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    NUM_PAIRS: tl.constexpr,
):
    dim = tl.arange(0, HEAD_SIZE)[None, :]
    turned = tl.fma(x.to(tl.float32), cosine[None, :], partner.to(tl.float32) * sine[None, :])
    y = tl.where(dim < 2 * NUM_PAIRS, turned.to(x.dtype), x)
    tl.store(OUT + head[:, None] * HEAD_SIZE + dim, y, mask=(head < NUM_HEADS)[:, None])
