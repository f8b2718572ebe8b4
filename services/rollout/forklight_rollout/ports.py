"""What this service needs from outside: an engine that turns prompts into tokens, and the buffer's door.

Queue and blob ports are `forklight_core`'s. Every engine (native, in-memory, a served one) keeps the promises
below, so the generator, the worker and the tests do not know which one runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from forklight.v1 import types_pb2
from forklight_core.queues import Lease
from forklight_core.wire import RoutingArrays
from forklight_rollout.manifest import PublishedWeights


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What an engine can hold; nobody asks it for more."""

    num_sequences: int  # decoded together
    max_tokens: int  # prompt and response of one sequence
    vocabulary_size: int  # token ids are below it


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceStart:
    """One sequence to sample from a prompt."""

    key: int  # the caller's name for it, never used twice
    seed: int  # unsigned 64 bits; the same seed and weights give the same tokens, whatever else runs


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptStart:
    """Some sequences of one group. A group may be admitted in several parts; the prompt is prefilled once."""

    group: int  # the caller's name of the group
    prompt_ids: tuple[int, ...]
    temperature: float  # 0 is greedy
    top_p: float
    sequences: tuple[SequenceStart, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTokens:
    """One new token for each sequence that got one in a step; all are as long."""

    keys: Sequence[int]
    ids: Sequence[int]
    logprobs: Sequence[float]  # at the sampling distribution
    raw_logprobs: Sequence[float]  # at temperature 1 and top-p 1
    routing: Sequence[RoutingArrays] | None = None
    """Choices for the tokens each sequence was fed for this one: the whole prompt at its first, then its last
    token. None from an engine that does not record them."""


class Engine(Protocol):
    """Turns prompts into tokens. Not thread-safe, except `stage`: one thread calls everything else."""

    @property
    def limits(self) -> EngineLimits:
        """Capacity; constant."""
        ...

    @property
    def version(self) -> int:
        """Policy version that samples the next token."""
        ...

    @property
    def numeric_mode(self) -> types_pb2.NumericMode:
        """What may be demanded of its log-probs; constant."""
        ...

    @property
    def model_s(self) -> float:
        """Seconds spent in the model and the sampler since the start."""
        ...

    def admit(self, prompt: PromptStart) -> None:
        """Accept sequences. The caller keeps within `limits`; the work happens in `step`."""
        ...

    def step(self) -> StepTokens:
        """Advance every sequence by at most one token, all from `version`."""
        ...

    def retire(self, keys: Sequence[int]) -> None:
        """Forget sequences, running or not yet begun; unknown keys are ignored."""
        ...

    def stage(self, weights: PublishedWeights) -> None:
        """Load and check verified weights beside those in use (any thread). WeightsError changes nothing."""
        ...

    def swap(self) -> None:
        """Use the staged weights from the next step on; sequences and their caches stay (policy `keep`)."""
        ...


class EngineFactory(Protocol):
    """Builds the engine for the first weights a pod sees."""

    def __call__(self, weights: PublishedWeights) -> Engine: ...


class SubmitOutcome(StrEnum):
    """What became of a submitted trajectory."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    DROPPED = "dropped"


class BufferDoor(Protocol):
    """The buffer, as a pod sees it. Errors are `forklight_core.errors`."""

    async def pending_samples(self, group_id: str, lease: Lease) -> list[int]:
        """Indices of the group's samples that still have to be generated."""
        ...

    async def submit(self, trajectory: types_pb2.Trajectory, lease: Lease) -> SubmitOutcome:
        """Hand over a trajectory; FencedError when the lease went to another pod."""
        ...
