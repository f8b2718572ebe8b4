"""One decode step of lightning attention, sequence by sequence.

Legend: B sequences, H heads, D head size, S slots, C places of the open chunk.
"""

import torch
from torch import Tensor
from torch.nn.functional import silu

from forklight_kernels.lightning_attention.chunks import MAX_CHUNK
from forklight_kernels.lightning_decode.types import DecodeStep, LightningMemory, OpenChunk, open_chunk


def lightning_decode(
    qkv: tuple[Tensor, Tensor, Tensor], slopes_H: Tensor, memory: LightningMemory, step: DecodeStep
) -> Tensor:
    dtype = memory.states_SHDD.dtype
    q_BHD, k_BHD, v_BHD = (silu(part) if step.applies_silu else part for part in qkv)
    slots = range(len(v_BHD)) if step.slots_B is None else step.slots_B.tolist()
    decay_H11 = torch.exp(-slopes_H.to(dtype))[:, None, None]
    outputs = []
    for b, slot in enumerate(slots):
        if step.lengths_B is not None and step.lengths_B[b] < 0:
            outputs.append(torch.zeros_like(q_BHD[b], dtype=dtype))
            continue
        if memory.has_open_chunk and step.lengths_B is not None:
            length = int(step.lengths_B[b])
            state_HDD = _append(open_chunk(memory), slot, length, (k_BHD[b], v_BHD[b]), decay_H11)
        else:
            state_HDD = memory.states_SHDD[slot]
            if step.lengths_B is not None and step.lengths_B[b] == 0:
                state_HDD.zero_()
            state_HDD.mul_(decay_H11).add_(k_BHD[b].to(dtype)[:, :, None] * v_BHD[b].to(dtype)[:, None, :])
        outputs.append(torch.einsum("hk,hkv->hv", q_BHD[b].to(dtype), state_HDD))
    return torch.stack(outputs).to(v_BHD.dtype)


def _append(
    chunk: OpenChunk, slot: int, length: int, row: tuple[Tensor, Tensor], decay_H11: Tensor
) -> Tensor:
    """The state after this token, from the one before the chunk; the 64th token's becomes the slot's."""
    place = length % MAX_CHUNK
    chunk.keys_SHCD[slot, :, place], chunk.values_SHCD[slot, :, place] = row
    state_HDD = chunk.states_SHDD[slot]
    state_HDD = state_HDD.clone() if length >= MAX_CHUNK else torch.zeros_like(state_HDD)
    for j in range(place + 1):
        k_HD, v_HD = (
            cached[slot, :, j].to(state_HDD.dtype) for cached in (chunk.keys_SHCD, chunk.values_SHCD)
        )
        state_HDD = decay_H11 * state_HDD + k_HD[:, :, None] * v_HD[:, None, :]
    if place == MAX_CHUNK - 1:
        chunk.states_SHDD[slot] = state_HDD
        chunk.rounded_SHDD[slot] = state_HDD.to(chunk.rounded_SHDD.dtype)
    return state_HDD
