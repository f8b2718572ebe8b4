"""Generating one answer from a model folder: the smallest complete use of prefill, decode and the sampler."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch
from torch import Tensor

from forklight_core.errors import InvalidInputError
from forklight_kernels import SampledTokens, SamplingRequest, sampler
from forklight_model.policies import load_policy, open_decoding
from forklight_model.policy import Policy
from forklight_model.tokenizer import TOKENIZER_FILE, load_tokenizer


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One answer."""

    text: str
    """Empty where the folder has no tokenizer."""
    token_ids: tuple[int, ...]
    """The answer's ids, the stop token included."""
    logprobs: tuple[float, ...]
    """Each token's log-probability under the distribution it was drawn from."""
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationLimits:
    """How long and how freely to generate."""

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop_ids: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InvalidInputError(f"max_new_tokens = {self.max_new_tokens} must be at least 1")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise InvalidInputError(
                f"temperature = {self.temperature} must be >= 0 and top_p = {self.top_p} in (0, 1]"
            )


def generate_text(
    model_dir: str | Path,
    prompt: str,
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Generation:
    """Answer a prompt given as text. Temperature 0 always takes the most probable token."""
    tokenizer = load_tokenizer(model_dir)
    prompt_ids = tokenizer.encode_prompt(prompt)
    return generate_from_ids(model_dir, prompt_ids, max_new_tokens, temperature, top_p, seed)


def generate_from_ids(
    model_dir: str | Path,
    prompt_ids: Sequence[int],
    max_new_tokens: int = 256,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> Generation:
    """Answer a prompt given as token ids; works without a tokenizer."""
    has_tokenizer = (Path(model_dir) / TOKENIZER_FILE).is_file()
    tokenizer = load_tokenizer(model_dir) if has_tokenizer else None
    limits = GenerationLimits(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop_ids=tokenizer.stop_ids if tokenizer else frozenset(),
    )
    token_ids, logprobs = generate_tokens(load_policy(model_dir), prompt_ids, limits)
    return Generation(
        text=tokenizer.decode(token_ids) if tokenizer else "",
        token_ids=tuple(token_ids),
        logprobs=tuple(logprobs),
        finish_reason=FinishReason.STOP if token_ids[-1] in limits.stop_ids else FinishReason.LENGTH,
    )


@torch.inference_mode()
def generate_tokens(
    policy: Policy, prompt_ids: Sequence[int], limits: GenerationLimits
) -> tuple[list[int], list[float]]:
    """The answer's token ids and their log-probabilities."""
    _check_prompt(policy, prompt_ids)
    decoding = open_decoding(policy, len(prompt_ids) + limits.max_new_tokens)
    logits_BV = decoding.begin(prompt_ids)
    token_ids: list[int] = []
    logprobs: list[float] = []
    while True:
        sampled = _sample(logits_BV, limits, position=len(prompt_ids) + len(token_ids))
        token_ids.append(int(sampled.ids_B))
        logprobs.append(float(sampled.logprobs_B))
        if token_ids[-1] in limits.stop_ids or len(token_ids) == limits.max_new_tokens:
            return token_ids, logprobs
        logits_BV = decoding.feed(sampled.ids_B)


def _sample(logits_BV: Tensor, limits: GenerationLimits, position: int) -> SampledTokens:
    request = SamplingRequest(
        temperatures_B=torch.tensor([limits.temperature]),
        top_ps_B=torch.tensor([limits.top_p]),
        seeds_B=torch.tensor([limits.seed]),
        positions_B=torch.tensor([position]),
    )
    return sampler(logits_BV, request)


def _check_prompt(policy: Policy, prompt_ids: Sequence[int]) -> None:
    vocab_size = policy.config.vocab_size
    if not prompt_ids:
        raise InvalidInputError("the prompt is empty; generation needs at least one token")
    outside = [token for token in prompt_ids if not 0 <= token < vocab_size]
    if outside:
        raise InvalidInputError(
            f"prompt_ids holds {outside[:4]}, outside the vocabulary 0 to {vocab_size - 1}"
        )
