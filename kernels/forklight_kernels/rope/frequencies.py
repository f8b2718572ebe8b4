"""The rotary frequencies, in fp32 on the CPU as the published code has them. Shared by every backend."""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def rotary_frequencies(rotary_dim: int, theta: float, device: torch.device) -> Tensor:
    """theta^(-2 i / rotary_dim) for each rotated pair i, fp32."""
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.int64).to(torch.float32) / rotary_dim
    return (1.0 / (theta**exponents)).to(device)
