"""Forklight's operators: plain truth first (naive.py), fast paths beside it, one public door each."""

from forklight_kernels.backend import Backend, using_backend
from forklight_kernels.cached_attention import cached_attention
from forklight_kernels.gated_norm import gated_norm
from forklight_kernels.lightning_attention import lightning_attention
from forklight_kernels.lightning_decode import lightning_decode
from forklight_kernels.moe_experts import moe_experts
from forklight_kernels.moe_router import moe_router
from forklight_kernels.rms_norm import rms_norm
from forklight_kernels.rope import rope
from forklight_kernels.sampler import SampledTokens, SamplingRequest, sampler
from forklight_kernels.silu_split import silu_split
from forklight_kernels.softmax_attention import softmax_attention
from forklight_kernels.token_stats import token_stats

__all__ = [
    "Backend",
    "SampledTokens",
    "SamplingRequest",
    "cached_attention",
    "gated_norm",
    "lightning_attention",
    "lightning_decode",
    "moe_experts",
    "moe_router",
    "rms_norm",
    "rope",
    "sampler",
    "silu_split",
    "softmax_attention",
    "token_stats",
    "using_backend",
]
