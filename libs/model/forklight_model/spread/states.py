"""Lightning attention by passing states: each process runs its slice from zero, then learns what came before.

What a state adds to an output is linear, o_t += exp(-s i) q_t S: so the slice's own part, the states' journey
and what they add are three steps, each differentiable. Only the sequence that is open where the slice begins
has a state before it.
Legend: n processes, S own tokens, H heads, P head size, O own tokens of the open sequence.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import silu

from forklight_kernels import LightningForm, lightning_attention
from forklight_kernels.gradient import Context
from forklight_kernels.packing import accumulation_dtype, sequence_offsets
from forklight_model.spread.exchange import Heads
from forklight_model.spread.pack_slice import PackSlice
from forklight_model.spread.peers import Peers
from forklight_model.upload import upload_offsets


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Borders:
    """Where a pack's sequences cross the borders of its slices; known to every process without a message."""

    cu_seqlens: Tensor
    """Of the sequences' parts in the own slice."""
    num_open: int
    """Own tokens of the sequence that began before the slice; 0: none did."""
    slice_tokens: int
    before: range
    """Processes whose last state enters this slice."""
    after: range
    """Processes that this slice's last state enters."""
    is_needed: bool
    """Whether any sequence crosses any border."""

    @classmethod
    def of(cls, part: PackSlice) -> "Borders":
        width, rank, size = len(part.input_ids_S), part.shard.rank, part.shard.size
        offsets = sequence_offsets(part.cu_seqlens, width * size)
        firsts = [_first_slice(offsets, start, width) for start in range(0, width * size, width)]
        cuts = sorted({min(max(each - part.start, 0), width) for each in offsets} | {0, width})
        lengths = [end - start for start, end in pairwise(cuts)]
        return cls(
            cu_seqlens=upload_offsets(lengths, part.cu_seqlens.device),
            num_open=lengths[0] if firsts[rank] < rank else 0,
            slice_tokens=width,
            before=range(firsts[rank], rank),
            # A sequence that goes on is open in one slice after another.
            after=range(rank + 1, 1 + max((r for r in range(rank, size) if firsts[r] <= rank), default=rank)),
            is_needed=any(first < number for number, first in enumerate(firsts)),
        )


def _first_slice(offsets: tuple[int, ...], place: int, width: int) -> int:
    """The slice in which the sequence of this place's token begins."""
    return max(each for each in offsets if each <= place) // width


def mix_with_states(qkv: Heads, slopes_H: Tensor, borders: Borders, peers: Peers) -> Tensor:
    """q, k, v [S, H, P] come before their silu. All processes call it together."""
    form = LightningForm(applies_silu=True)
    o_SHP, states_NHPP = lightning_attention(*qkv, slopes_H, borders.cu_seqlens, form)
    if not borders.is_needed:
        return o_SHP
    end_HPP = states_NHPP[-1]
    state_HPP: Tensor = _PassStates.apply(end_HPP, slopes_H, borders, peers)  # type: ignore[no-untyped-call]
    # Without an open sequence nothing is added, but the gradient still finds its way to the others.
    q_OHP = qkv[0][: borders.num_open]
    added_SHP: Tensor = _AddState.apply(o_SHP, q_OHP, state_HPP, slopes_H)  # type: ignore[no-untyped-call]
    return added_SHP


class _PassContext(Context):
    slopes_H: Tensor
    borders: Borders
    peers: Peers


class _PassStates(torch.autograd.Function):
    """From the state that each slice leaves to the state that each slice begins with."""

    @staticmethod
    def forward(
        ctx: _PassContext, state_HPP: Tensor, slopes_H: Tensor, borders: Borders, peers: Peers
    ) -> Tensor:
        ctx.slopes_H, ctx.borders, ctx.peers = slopes_H, borders, peers
        return _decayed_sum(peers.collect(state_HPP), borders.before, ctx)

    @staticmethod
    def backward(ctx: _PassContext, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        collected_nHPP = ctx.peers.collect(gradients[0])
        return _decayed_sum(collected_nHPP, ctx.borders.after, ctx), None, None, None


def _decayed_sum(states_nHPP: Tensor, ranks: range, ctx: _PassContext) -> Tensor:
    """Each with the decay of the slices between it and this one; of no others is a number read."""
    total_HPP = torch.zeros_like(states_nHPP[0])
    slopes_H = ctx.slopes_H.to(total_HPP.dtype)
    for rank in ranks:
        gap = (abs(rank - ctx.peers.rank) - 1) * ctx.borders.slice_tokens
        total_HPP.addcmul_(states_nHPP[rank], torch.exp(-slopes_H * gap)[:, None, None])
    return total_HPP


class _AddState(torch.autograd.Function):
    """o + exp(-s i) q S for the first tokens; q comes before its silu."""

    @staticmethod
    def forward(ctx: Context, o_SHP: Tensor, q_OHP: Tensor, state_HPP: Tensor, slopes_H: Tensor) -> Tensor:
        ctx.save_for_backward(q_OHP, state_HPP, slopes_H)
        out_SHP, num_open = o_SHP.clone(), len(q_OHP)
        read_HOP = torch.bmm(_decayed_queries(q_OHP, slopes_H), state_HPP)
        out_SHP[:num_open] = (o_SHP[:num_open] + read_HOP.transpose(0, 1)).to(o_SHP.dtype)
        return out_SHP

    @staticmethod
    def backward(ctx: Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q_OHP, state_HPP, slopes_H = ctx.saved_tensors
        do_HOP = gradients[0][: len(q_OHP)].to(state_HPP.dtype).transpose(0, 1)
        dstate_HPP = torch.bmm(_decayed_queries(q_OHP, slopes_H).transpose(1, 2), do_HOP)
        dactive_HOP = torch.bmm(do_HOP, state_HPP.transpose(1, 2)) * _decays(q_OHP, slopes_H)
        dq_OHP = torch.ops.aten.silu_backward(dactive_HOP.transpose(0, 1), q_OHP.to(state_HPP.dtype))
        return gradients[0], dq_OHP.to(q_OHP.dtype), dstate_HPP, None


def _decayed_queries(q_OHP: Tensor, slopes_H: Tensor) -> Tensor:
    """[H, O, P], wide; silu is rounded as the kernels round it."""
    wide = accumulation_dtype(q_OHP)
    return silu(q_OHP).to(wide).transpose(0, 1) * _decays(q_OHP, slopes_H)


def _decays(q_OHP: Tensor, slopes_H: Tensor) -> Tensor:
    """exp(-s i) of the i-th token, counted from 1."""
    place_O = torch.arange(1, len(q_OHP) + 1, device=q_OHP.device)
    return torch.exp(-slopes_H.to(accumulation_dtype(q_OHP))[:, None] * place_O)[:, :, None]
