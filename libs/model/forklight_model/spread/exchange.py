"""Between slices of tokens with all heads and all tokens with some heads: differentiable all-to-alls.

One message a direction. A message's halves are one copy: at the slice's side, where heads of one process must
lie together; at the other side tokens arrive in their order.
Legend: n processes, S own tokens, T = n S tokens, H heads, h = H / n own heads, G key heads, g own key heads,
P head size, W numbers a head.
"""

import torch
from torch import Tensor

from forklight_kernels.gradient import Context
from forklight_kernels.heads import joined_heads, split_heads
from forklight_model.spread.peers import Peers

Heads = tuple[Tensor, Tensor, Tensor]
"""q, k, v."""


def lightning_to_heads(qkv_SHP: Heads, peers: Peers) -> Heads:
    """q, k and v [T, h, P] of own heads, views of one tensor, as they are given."""
    q_ThP, k_ThP, v_ThP = _LightningToHeads.apply(*qkv_SHP, peers)  # type: ignore[no-untyped-call]
    return q_ThP, k_ThP, v_ThP


def softmax_to_heads(qkv: Heads, peers: Peers) -> Heads:
    """q [T, h, P], k and v [T, g, P]. Where key heads are fewer than processes, some have the same one."""
    q_ThP, k_TgP, v_TgP = _SoftmaxToHeads.apply(*qkv, peers)  # type: ignore[no-untyped-call]
    return q_ThP, k_TgP, v_TgP


def to_tokens(o_ThP: Tensor, peers: Peers) -> Tensor:
    """[S, H, P]: own tokens, all heads."""
    o_SHP: Tensor = _ToTokens.apply(o_ThP, peers)  # type: ignore[no-untyped-call]
    return o_SHP


def _to_heads(x_SHW: Tensor, peers: Peers) -> Tensor:
    num_own, num_heads, width = x_SHW.shape
    pieces_nSX = x_SHW.reshape(num_own, peers.size, -1).transpose(0, 1)
    return peers.swap(pieces_nSX).reshape(num_own * peers.size, num_heads // peers.size, width)


def _to_slice(x_ThW: Tensor, peers: Peers) -> Tensor:
    num_tokens, num_heads, width = x_ThW.shape
    pieces_nSX = peers.swap(x_ThW.reshape(peers.size, num_tokens // peers.size, -1))
    return pieces_nSX.transpose(0, 1).reshape(num_tokens // peers.size, peers.size * num_heads, width)


class _Context(Context):
    peers: Peers
    num_heads: tuple[int, int]
    """Of queries and of keys, own ones."""
    num_key_heads: int


class _LightningToHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, q_SHP: Tensor, k_SHP: Tensor, v_SHP: Tensor, peers: Peers) -> Heads:
        ctx.peers = peers
        q_ThP, k_ThP, v_ThP = split_heads(_to_heads(joined_heads(q_SHP, k_SHP, v_SHP), peers), 3)
        return q_ThP, k_ThP, v_ThP

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return *split_heads(_to_slice(joined_heads(*gradients), ctx.peers), 3), None


class _ToTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, o_ThP: Tensor, peers: Peers) -> Tensor:
        ctx.peers = peers
        return _to_slice(o_ThP, peers)

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return _to_heads(gradients[0], ctx.peers), None


class _SoftmaxToHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, q_SHP: Tensor, k_SGP: Tensor, v_SGP: Tensor, peers: Peers) -> Heads:
        (num_own, num_heads, size), num_key_heads, n = q_SHP.shape, k_SGP.shape[1], peers.size
        own, own_keys = num_heads // n, max(1, num_key_heads // n)
        pieces_nSXP = q_SHP.new_empty(n, num_own, own + 2 * own_keys, size)
        pieces_nSXP[:, :, :own] = q_SHP.view(num_own, n, own, size).transpose(0, 1)
        for number, part_SGP in enumerate((k_SGP, v_SGP)):
            start = own + number * own_keys
            pieces_nSXP[:, :, start : start + own_keys] = _key_pieces(part_SGP, n)
        ctx.peers, ctx.num_heads, ctx.num_key_heads = peers, (own, own_keys), num_key_heads
        joined_TXP = peers.swap(pieces_nSXP).flatten(0, 1)
        q_ThP, k_TgP, v_TgP = torch.split(joined_TXP, [own, own_keys, own_keys], dim=1)
        return q_ThP, k_TgP, v_TgP

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        n, (own, own_keys) = ctx.peers.size, ctx.num_heads
        joined_TXP = torch.cat(gradients, dim=1)
        pieces_nSXP = ctx.peers.swap(joined_TXP.view(n, -1, *joined_TXP.shape[1:]))
        dq_nShP, dk_nSgP, dv_nSgP = torch.split(pieces_nSXP, [own, own_keys, own_keys], dim=2)
        return (
            dq_nShP.transpose(0, 1).flatten(1, 2),
            _key_gradient(dk_nSgP, ctx.num_key_heads),
            _key_gradient(dv_nSgP, ctx.num_key_heads),
            None,
        )


def _key_pieces(x_SGP: Tensor, n: int) -> Tensor:
    """[n, S, g, P], a view: the key heads that each process's query heads read."""
    num_own, num_key_heads, size = x_SGP.shape
    if num_key_heads >= n:
        return x_SGP.view(num_own, n, -1, size).transpose(0, 1)
    return x_SGP.transpose(0, 1).repeat_interleave(n // num_key_heads, dim=0)[:, :, None]


def _key_gradient(dx_nSgP: Tensor, num_key_heads: int) -> Tensor:
    """[S, G, P]. A key head that several processes had gets the sum of what they say, in their order."""
    n, num_own, _, size = dx_nSgP.shape
    if num_key_heads >= n:
        return dx_nSgP.transpose(0, 1).flatten(1, 2)
    dx_GCSP = dx_nSgP.reshape(num_key_heads, n // num_key_heads, num_own, size)
    total_GSP = dx_GCSP[:, 0].to(_sum_dtype(dx_GCSP))
    for copy in range(1, dx_GCSP.shape[1]):
        total_GSP = total_GSP + dx_GCSP[:, copy]
    return total_GSP.to(dx_GCSP.dtype).transpose(0, 1).contiguous()


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
