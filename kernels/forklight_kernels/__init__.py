"""Forklight's operators: plain truth first (naive.py), fast paths beside it, one public door each."""

from forklight_kernels.backend import Backend, backend_on, using_backend
from forklight_kernels.cached_attention import KeyPages, append_keys, cached_attention
from forklight_kernels.dense import dense, dense_many, join_weights
from forklight_kernels.end_rules import EndColumns, EndReason, apply_end_rules
from forklight_kernels.gated_norm import gated_norm
from forklight_kernels.lightning_attention import LightningForm, lightning_attention, split_projection
from forklight_kernels.lightning_decode import (
    DecodeStep,
    LightningMemory,
    continue_lightning,
    lightning_decode,
)
from forklight_kernels.moe_experts import (
    ExpertPart,
    ExpertSpread,
    RowTrip,
    moe_experts,
    moe_experts_part,
    moe_experts_spread,
)
from forklight_kernels.moe_router import RoutedTokens, moe_router
from forklight_kernels.residual import Residual
from forklight_kernels.rms_norm import rms_norm
from forklight_kernels.rope import rope, rope_pair
from forklight_kernels.sampler import SampledTokens, SamplingRequest, sampler
from forklight_kernels.softmax_attention import softmax_attention
from forklight_kernels.token_stats import head_logits, logit_stats, token_stats

__all__ = [
    "Backend",
    "DecodeStep",
    "EndColumns",
    "EndReason",
    "ExpertPart",
    "ExpertSpread",
    "KeyPages",
    "LightningForm",
    "LightningMemory",
    "Residual",
    "RoutedTokens",
    "RowTrip",
    "SampledTokens",
    "SamplingRequest",
    "append_keys",
    "apply_end_rules",
    "backend_on",
    "cached_attention",
    "continue_lightning",
    "dense",
    "dense_many",
    "gated_norm",
    "head_logits",
    "join_weights",
    "lightning_attention",
    "lightning_decode",
    "logit_stats",
    "moe_experts",
    "moe_experts_part",
    "moe_experts_spread",
    "moe_router",
    "rms_norm",
    "rope",
    "rope_pair",
    "sampler",
    "softmax_attention",
    "split_projection",
    "token_stats",
    "using_backend",
]
