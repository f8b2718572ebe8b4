"""What is generated: a group of samples of one prompt, the finished samples, and the checks at the door.

`read_group` refuses whatever could not be generated, naming the field, before it comes near the engine.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from forklight.v1 import types_pb2
from forklight_core.errors import InvalidInputError
from forklight_core.ids import sample_id
from forklight_core.wire import RoutingArrays
from forklight_rollout.ports import EngineLimits


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"
    REPETITION = "repetition"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingRules:
    """How every sample of a group is drawn and when it ends."""

    max_new_tokens: int
    temperature: float
    top_p: float
    repetition_probability: float
    repetition_tokens: int  # 0: never stop for repetition


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleStart:
    """One sample to generate."""

    sample_id: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupWork:
    """The samples of a group that this pod generates."""

    group_id: str
    prompt_ids: tuple[int, ...]
    rules: SamplingRules
    samples: tuple[SampleStart, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """From token `start` of the response on, tokens come from policy `version`."""

    start: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedSample:
    """A generation that has ended. R response tokens; the stop token is one of them."""

    sample_id: str
    group_id: str
    prompt_ids: tuple[int, ...]
    response_ids: array[int]  # [R]
    logprobs: array[float]  # [R] at the sampling distribution
    raw_logprobs: array[float]  # [R] at temperature 1 and top-p 1
    spans: tuple[Span, ...]
    reason: FinishReason
    started_at: float  # unix time, seconds
    finished_at: float
    routing: RoutingArrays | None = None  # of the P + R - 1 tokens that were fed, where the engine records it


def read_group(
    task: types_pb2.GenerationTask,
    indices: Sequence[int],
    *,
    encode: Callable[[str], Sequence[int]],
    limits: EngineLimits,
) -> GroupWork:
    """The work a task asks for, or InvalidInputError naming the field that makes it impossible."""
    group_id = task.envelope.group_id
    if not group_id:
        raise _refused("?", "envelope.group_id", "is empty")
    rules = _read_rules(task.sampling, group_id)
    _check_indices(indices, task.sampling.num_samples, group_id)
    prompt_ids = _read_prompt(task.prompt, group_id, encode, limits)
    _check_window(len(prompt_ids), rules.max_new_tokens, group_id, limits)
    samples = tuple(
        SampleStart(sample_id=sample_id(group_id, index), seed=(task.sampling.seed + index) % 2**64)
        for index in indices
    )
    return GroupWork(group_id=group_id, prompt_ids=prompt_ids, rules=rules, samples=samples)


def _read_rules(sampling: types_pb2.Sampling, group_id: str) -> SamplingRules:
    if sampling.max_new_tokens < 1:
        raise _refused(group_id, "sampling.max_new_tokens", "is 0; at least 1 is needed")
    if not (math.isfinite(sampling.temperature) and sampling.temperature >= 0):
        raise _refused(
            group_id, "sampling.temperature", f"is {sampling.temperature}; it must be finite, 0 or more"
        )
    if not 0 < sampling.top_p <= 1:
        raise _refused(group_id, "sampling.top_p", f"is {sampling.top_p}; it must lie in (0, 1]")
    if sampling.repetition_tokens and not 0 < sampling.repetition_probability < 1:
        raise _refused(
            group_id,
            "sampling.repetition_probability",
            f"is {sampling.repetition_probability}; with repetition_tokens set it must lie in (0, 1)",
        )
    return SamplingRules(
        max_new_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        repetition_probability=sampling.repetition_probability,
        repetition_tokens=sampling.repetition_tokens,
    )


def _check_indices(indices: Sequence[int], num_samples: int, group_id: str) -> None:
    if num_samples < 1:
        raise _refused(group_id, "sampling.num_samples", "is 0; a group has at least one sample")
    for index in indices:
        if index >= num_samples:
            raise _refused(
                group_id, "sampling.num_samples", f"is {num_samples}, but sample {index} is asked for"
            )


def _read_prompt(
    prompt: str, group_id: str, encode: Callable[[str], Sequence[int]], limits: EngineLimits
) -> tuple[int, ...]:
    try:
        prompt_ids = tuple(encode(prompt)) if prompt.strip() else ()
    except InvalidInputError as error:
        raise _refused(group_id, "prompt", f"cannot be encoded: {error}") from error
    if not prompt_ids:
        raise _refused(group_id, "prompt", "is empty; there is nothing to continue")
    outside = [token for token in prompt_ids if not 0 <= token < limits.vocabulary_size]
    if outside:
        raise _refused(
            group_id,
            "prompt",
            f"encodes to token id {outside[0]}, outside the vocabulary of {limits.vocabulary_size}; "
            "the tokenizer does not belong to these weights",
        )
    return prompt_ids


def _check_window(num_prompt_tokens: int, max_new_tokens: int, group_id: str, limits: EngineLimits) -> None:
    if num_prompt_tokens + max_new_tokens > limits.max_tokens:
        raise _refused(
            group_id,
            "prompt",
            f"has {num_prompt_tokens} tokens; with sampling.max_new_tokens {max_new_tokens} at most "
            f"{max(0, limits.max_tokens - max_new_tokens)} fit this pod's {limits.max_tokens} a sequence "
            "(raise FORKLIGHT_MAX_PROMPT_TOKENS or lower sampling.max_new_tokens)",
        )


def _refused(group_id: str, field: str, problem: str) -> InvalidInputError:
    return InvalidInputError(f"group {group_id}: {field} {problem}")
