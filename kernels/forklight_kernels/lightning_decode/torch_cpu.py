"""One decode step of lightning attention: three passes over the states, in place.

Legend: B sequences, H heads, D head size.
"""

import torch
from torch import Tensor


def lightning_decode(
    q_BHD: Tensor, k_BHD: Tensor, v_BHD: Tensor, slopes_H: Tensor, state_BHDD: Tensor
) -> Tensor:
    dtype = state_BHDD.dtype
    q_BHD, k_BHD = q_BHD.to(dtype), k_BHD.to(dtype)
    state_BHDD.mul_(torch.exp(-slopes_H.to(dtype))[:, None, None])
    state_BHDD.addcmul_(k_BHD[..., :, None], v_BHD.to(dtype)[..., None, :])
    return torch.matmul(q_BHD[..., None, :], state_BHDD).squeeze(-2).to(v_BHD.dtype)
