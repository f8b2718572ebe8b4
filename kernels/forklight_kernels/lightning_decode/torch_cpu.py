"""One decode step of lightning attention in torch.

The recurrent form is three passes over the states, in place; the chunk form a few batched products, without
reading lengths on the host.

Legend: B sequences, H heads, D head size, S slots, C places of the open chunk.
"""

import torch
from torch import Tensor

from forklight_kernels.lightning_attention.chunks import MAX_CHUNK
from forklight_kernels.lightning_attention.projection import activated
from forklight_kernels.lightning_decode.types import DecodeStep, LightningMemory, OpenChunk, open_chunk


def lightning_decode(
    qkv: tuple[Tensor, Tensor, Tensor], slopes_H: Tensor, memory: LightningMemory, step: DecodeStep
) -> Tensor:
    parts = activated(qkv) if step.applies_silu else qkv
    if memory.has_open_chunk:
        return _chunk_step(parts, slopes_H, open_chunk(memory), step)
    if step.slots_B is None:
        return _live_step(parts, slopes_H, memory.states_SHDD[: len(parts[0])], step.lengths_B)
    states_BHDD = memory.states_SHDD.index_select(0, step.slots_B)
    o_BHD = _live_step(parts, slopes_H, states_BHDD, step.lengths_B)
    memory.states_SHDD.index_copy_(0, step.slots_B.to(torch.int64), states_BHDD)
    return o_BHD


def _live_step(
    qkv: tuple[Tensor, Tensor, Tensor], slopes_H: Tensor, state_BHDD: Tensor, lengths_B: Tensor | None
) -> Tensor:
    """The recurrent step. First tokens start from zero; idle rows have afterwards the states they had."""
    if lengths_B is None or not bool((lengths_B <= 0).any()):
        return _recurrent_step(qkv, slopes_H, state_BHDD)
    is_idle_B = lengths_B < 0
    kept_BHDD = state_BHDD[is_idle_B]
    state_BHDD[lengths_B <= 0] = 0
    o_BHD = _recurrent_step(qkv, slopes_H, state_BHDD)
    state_BHDD[is_idle_B] = kept_BHDD
    o_BHD[is_idle_B] = 0
    return o_BHD


def _recurrent_step(qkv: tuple[Tensor, Tensor, Tensor], slopes_H: Tensor, state_BHDD: Tensor) -> Tensor:
    q_BHD, k_BHD, v_BHD = qkv
    dtype = state_BHDD.dtype
    q_BHD, k_BHD = q_BHD.to(dtype), k_BHD.to(dtype)
    state_BHDD.mul_(torch.exp(-slopes_H.to(dtype))[:, None, None])
    state_BHDD.addcmul_(k_BHD[..., :, None], v_BHD.to(dtype)[..., None, :])
    return torch.matmul(q_BHD[..., None, :], state_BHDD).squeeze(-2).to(v_BHD.dtype)


def _chunk_step(
    qkv: tuple[Tensor, Tensor, Tensor], slopes_H: Tensor, chunk: OpenChunk, step: DecodeStep
) -> Tensor:
    q_BHD, k_BHD, v_BHD = qkv
    if step.lengths_B is None:
        raise ValueError("lengths_B is None; the chunk form needs each sequence's length")
    device, dtype = q_BHD.device, chunk.states_SHDD.dtype
    slots_B = (
        torch.arange(len(q_BHD), device=device) if step.slots_B is None else step.slots_B.to(torch.int64)
    )
    lengths_B = step.lengths_B.to(torch.int64)
    is_live_B11 = (lengths_B >= 0)[:, None, None]
    place_B = lengths_B.clamp(min=0) % MAX_CHUNK
    for cached_SHCD, new_BHD in ((chunk.keys_SHCD, k_BHD), (chunk.values_SHCD, v_BHD)):
        old_BHD = cached_SHCD[slots_B, :, place_B]
        cached_SHCD[slots_B, :, place_B] = torch.where(is_live_B11, new_BHD, old_BHD)
    slopes_H = slopes_H.to(dtype)
    behind_BC = place_B[:, None] - torch.arange(MAX_CHUNK, device=device)
    is_seen_B1C = (behind_BC >= 0)[:, None, :]
    decay_BHC = torch.exp(-slopes_H[:, None] * behind_BC.clamp(min=0)[:, None, :]) * is_seen_B1C
    k_BHCD = _seen(chunk.keys_SHCD, slots_B, is_seen_B1C).to(dtype)
    v_BHCD = _seen(chunk.values_SHCD, slots_B, is_seen_B1C).to(dtype)
    scores_BHC = (k_BHCD @ q_BHD.to(dtype)[..., None]).squeeze(-1) * decay_BHC
    before_BH1 = torch.exp(-slopes_H * (place_B + 1)[:, None])[..., None]
    has_state_B111 = (lengths_B >= MAX_CHUNK)[:, None, None, None]
    rounded_BHDD = torch.where(has_state_B111, chunk.rounded_SHDD[slots_B], 0)
    read_BHD = (q_BHD.to(dtype)[..., None, :] @ rounded_BHDD.to(dtype)).squeeze(-2)
    o_BHD = read_BHD * before_BH1 + (scores_BHC[..., None, :] @ v_BHCD).squeeze(-2)
    states_BHDD = chunk.states_SHDD[slots_B]
    after_BHDD = torch.where(has_state_B111, states_BHDD, 0) * before_BH1[..., None]
    after_BHDD += k_BHCD.mT @ (v_BHCD * decay_BHC[..., None])
    is_full_B111 = (place_B == MAX_CHUNK - 1)[:, None, None, None]
    for cached_SHDD in (chunk.states_SHDD, chunk.rounded_SHDD):
        closed_BHDD = after_BHDD.to(cached_SHDD.dtype)
        cached_SHDD[slots_B] = torch.where(is_full_B111, closed_BHDD, cached_SHDD[slots_B])
    return torch.where(is_live_B11, o_BHD, 0).to(v_BHD.dtype)


def _seen(cached_SHCD: Tensor, slots_B: Tensor, is_seen_B1C: Tensor) -> Tensor:
    """The open chunk's rows; places not yet filled may hold anything and become zeros."""
    return torch.where(is_seen_B1C[..., None], cached_SHCD[slots_B], 0)
