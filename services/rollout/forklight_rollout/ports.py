"""What this service needs from outside: an engine that turns prompts into tokens, and the buffer's door.

Queue and blob ports are `forklight_core`'s. Every engine (native, in-memory, a served one) keeps the promises
below, so the generator, the worker and the tests do not know which one runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from forklight.v1 import types_pb2
from forklight_core.blobs import BlobRef
from forklight_core.ids import sample_id
from forklight_core.wire import RoutingArrays
from forklight_rollout.weights.manifest import PublishedWeights

if TYPE_CHECKING:  # an engine alone, as benchmarks run it, needs no queue
    from forklight_core.queues import Lease

MOST_STOP_IDS = 8


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"
    REPETITION = "repetition"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What an engine can hold; nobody asks it for more."""

    num_sequences: int  # decoded together
    max_tokens: int  # prompt and response of one sequence
    vocabulary_size: int  # token ids are below it


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTraits:
    """How far an engine's numbers are the trainer's."""

    exact_kernels: tuple[str, ...]  # of lightning, softmax, moe, head: those that are the trainer's own
    is_batch_invariant: bool  # same seed and weights, same tokens, whatever else runs


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawRules:
    """How a token is drawn. Filters apply in this order: top_k, min_p, then top_p of what they leave."""

    temperature: float  # 0 is greedy
    top_p: float = 1.0  # the fewest tokens that together reach it; 1 keeps all
    top_k: int = 0  # the k likeliest; 0 keeps all
    min_p: float = 0.0  # at least this share of the likeliest token's probability; 0 keeps all

    @property
    def is_filtered(self) -> bool:
        """Whether some tokens may be kept out."""
        return self.top_p < 1 or self.top_k > 0 or self.min_p > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EndRules:
    """When a generation ends, looked at after each token in this order: stop, repetition, length."""

    max_new_tokens: int  # of the whole response, its prefix included
    stop_ids: frozenset[int] = frozenset()  # at most MOST_STOP_IDS
    repetition_tokens: int = 0  # so many tokens in a row, each more probable than the next field; 0: never
    repetition_probability: float = 0.99  # of the model's own distribution (temperature 1, no filter)


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceStart:
    """One sequence to sample from a prompt."""

    key: int  # the caller's name for it, never used twice
    seed: int  # unsigned 64 bits; the same seed and weights give the same tokens, whatever else runs
    prefix_ids: tuple[int, ...] = ()
    """Response tokens that exist already: fed after the prompt, not drawn. The next draw is the one that
    would have followed them."""
    num_certain: int = 0  # of the prefix's last tokens, how many in a row count as repetition
    is_turn: bool = False  # the caller will probably go on behind its end: worth remembering what it has


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptStart:
    """Some sequences of one group. A group may be admitted in several parts; the prompt is prefilled once."""

    group: int  # the caller's name of the group
    prompt_ids: tuple[int, ...]
    draw: DrawRules
    end: EndRules
    sequences: tuple[SequenceStart, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTokens:
    """New tokens, all columns as long. A key may come several times, in order; nothing follows a reason."""

    version: int  # policy version that drew them
    keys: Sequence[int]
    ids: Sequence[int]
    logprobs: Sequence[float]  # at the sampling distribution
    raw_logprobs: Sequence[float]  # at temperature 1 and without filters
    reasons: Sequence[FinishReason | None]  # set on a sequence's last token
    routing: Sequence[RoutingArrays] | None = None
    """Choices for the tokens each sequence was fed for this one: the whole prompt and prefix at its first,
    then its last token. None from an engine that does not record them."""


class Engine(Protocol):
    """Turns prompts into tokens. Not thread-safe, except `stage`: one thread calls everything else.

    An engine may run ahead of what `step` returns, and may hold sequences back while its memory is full; it
    never loses one.
    """

    @property
    def limits(self) -> EngineLimits:
        """Capacity; constant."""
        ...

    @property
    def traits(self) -> EngineTraits:
        """Which kernels it computes with; constant."""
        ...

    @property
    def version(self) -> int:
        """Newest policy version in use."""
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
        """Go on with every sequence; what has been drawn since the last call. Waits rather than spins."""
        ...

    def retire(self, keys: Sequence[int]) -> None:
        """Forget sequences, running or not yet begun: no token of theirs comes any more. Sequences that got a
        reason are forgotten by themselves. Unknown keys are ignored."""
        ...

    def score(self, ids: Sequence[int]) -> Sequence[float]:
        """Log-probs of the tokens after the first under `version`, at temperature 1."""
        ...

    def stage(self, weights: PublishedWeights) -> None:
        """Load and check verified weights beside those in use (any thread). WeightsError changes nothing."""
        ...

    def swap(self) -> None:
        """Use the staged weights from the next step on; sequences and their caches stay."""
        ...

    def close(self) -> None:
        """Give back what it holds outside of this process. The last call; safe to repeat."""
        ...


class EngineFactory(Protocol):
    """Builds the engine for the first weights a pod sees."""

    def __call__(self, weights: PublishedWeights) -> Engine: ...


class SubmitOutcome(StrEnum):
    """What became of a submitted trajectory."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRef:
    """A saved stretch of an unfinished response; its arrays are in the payload."""

    start: int  # index of its first token in the response
    num_tokens: int
    payload: BlobRef
    min_version: int  # oldest policy version among its tokens

    @property
    def end(self) -> int:
        """Index behind its last token."""
        return self.start + self.num_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingSample:
    """A sample that still has to be generated, and how far its response got: segments, gap-free from 0."""

    index: int
    segments: tuple[SegmentRef, ...] = ()

    @property
    def num_saved_tokens(self) -> int:
        return self.segments[-1].end if self.segments else 0

    def name(self, group_id: str) -> str:
        """Its sample id."""
        return sample_id(group_id, self.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """How a response stands at the buffer. DROPPED: the sample needs no tokens any more."""

    outcome: SubmitOutcome
    num_saved_tokens: int  # 0 when dropped


class BufferDoor(Protocol):
    """The buffer, as a pod sees it. Errors are `forklight_core.errors`."""

    async def pending_samples(self, group_id: str, lease: Lease) -> list[PendingSample]:
        """The group's samples that still have to be generated, by index, and what is saved of them."""
        ...

    async def save_segment(self, sample_id: str, segment: SegmentRef, lease: Lease) -> Saved:
        """Append what follows the tokens saved so far. FencedError when the lease went to another pod,
        InvalidInputError for a gap, or for other tokens where some are saved."""
        ...

    async def drop_segments(self, sample_id: str, from_start: int, lease: Lease) -> Saved:
        """Saved segments from a token on are unusable: they are forgotten. Errors as for `save_segment`."""
        ...

    async def submit(self, trajectory: types_pb2.Trajectory, lease: Lease) -> SubmitOutcome:
        """Hand over a trajectory; FencedError when the lease went to another pod."""
        ...
