"""One decode step of lightning attention, head by head. Legend: B sequences, H heads, D head size."""

import torch
from torch import Tensor


def lightning_decode(
    q_BHD: Tensor, k_BHD: Tensor, v_BHD: Tensor, slopes_H: Tensor, state_BHDD: Tensor
) -> Tensor:
    dtype = state_BHDD.dtype
    decay_H11 = torch.exp(-slopes_H.to(dtype))[:, None, None]
    outer_BHDD = k_BHD.to(dtype)[..., :, None] * v_BHD.to(dtype)[..., None, :]
    state_BHDD.copy_(decay_H11 * state_BHDD + outer_BHDD)
    return torch.einsum("bhk,bhkv->bhv", q_BHD.to(dtype), state_BHDD).to(v_BHD.dtype)
