"""Next-token sampling: temperature, top-p, one reproducible stream of numbers a sequence."""

from torch import Tensor

from forklight_kernels.backend import uses_naive
from forklight_kernels.sampler import naive, torch_cpu
from forklight_kernels.sampler.types import SampledTokens, SamplingRequest


def sampler(logits_BV: Tensor, request: SamplingRequest) -> SampledTokens:
    """Draw one token a row. Each row depends only on its own logits and settings, never on the batch."""
    if uses_naive():
        return naive.sampler(logits_BV, request)
    return torch_cpu.sampler(logits_BV, request)


__all__ = ["SampledTokens", "SamplingRequest", "sampler"]
