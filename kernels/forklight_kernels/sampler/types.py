"""What a sampler is asked and what it answers. Legend: B sequences."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRequest:
    """How each sequence of a batch draws its next token."""

    temperatures_B: Tensor
    """fp32; 0 takes the most probable token."""
    top_ps_B: Tensor
    """fp32 in (0, 1]; 1 keeps the whole vocabulary."""
    seeds_B: Tensor
    """int64; one a sequence."""
    positions_B: Tensor
    """int64; the number of the token in its sequence. (seed, position) must not repeat."""
    is_filtered: bool | None = None
    """False promises that every top_p is 1: a GPU then looks for no nucleus. None: some may be less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledTokens:
    """The tokens drawn and how probable they were."""

    ids_B: Tensor
    logprobs_B: Tensor
    """fp32, under the distribution sampled from (temperature and top-p applied); 0 when greedy."""
    raw_logprobs_B: Tensor
    """fp32, under the model's own distribution (temperature 1, whole vocabulary)."""
