"""What a sampler is asked and what it answers. Legend: B sequences."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRequest:
    """How each sequence of a batch draws its next token. Filters apply in this order: top_k, min_p, top_p."""

    temperatures_B: Tensor
    """fp32; 0 takes the most probable token, whatever the filters."""
    top_ps_B: Tensor
    """fp32 in (0, 1]: this share of what the other filters leave; 1 keeps all of it."""
    seeds_B: Tensor
    """int64; one a sequence."""
    positions_B: Tensor
    """int64; the number of the token in its sequence. (seed, position) must not repeat."""
    top_ks_B: Tensor | None = None
    """int32: so many of the likeliest tokens; 0 keeps all. None: no row has one."""
    min_ps_B: Tensor | None = None
    """fp32 in [0, 1]: tokens at least so probable, relative to the likeliest; 0 keeps all. None: as above."""
    is_filtered: bool | None = None
    """False promises that no row has a filter of any kind: nobody then looks for one. None: some may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledTokens:
    """The tokens drawn and how probable they were."""

    ids_B: Tensor
    logprobs_B: Tensor
    """fp32, under the distribution sampled from (temperature and filters applied); 0 when greedy."""
    raw_logprobs_B: Tensor
    """fp32, under the model's own distribution (temperature 1, whole vocabulary)."""
