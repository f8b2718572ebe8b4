"""One decode step of lightning attention for B sequences, their states updated in place."""

from torch import Tensor

from forklight_kernels.backend import uses_naive
from forklight_kernels.lightning_decode import naive, torch_cpu


def lightning_decode(
    q_BHD: Tensor, k_BHD: Tensor, v_BHD: Tensor, slopes_H: Tensor, state_BHDD: Tensor
) -> Tensor:
    """Output [B, H, D]; `state_BHDD` (fp32) becomes exp(-s) S + k^T v."""
    if uses_naive():
        return naive.lightning_decode(q_BHD, k_BHD, v_BHD, slopes_H, state_BHDD)
    return torch_cpu.lightning_decode(q_BHD, k_BHD, v_BHD, slopes_H, state_BHDD)


__all__ = ["lightning_decode"]
