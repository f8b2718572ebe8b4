"""Nouns of the ledger: groups, terminal samples, batches, commits, lineages, versions, rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from forklight_buffer.states import Phase, Purpose, RoundState, State

BYTES_PER_TOKEN = 16
"""What a token of a payload is reserved with until its blob is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """A group as it was opened. Everything needed to open it again under the same name."""

    group_id: str
    purpose: Purpose
    index: int
    position: int
    prompt_id: str
    kind: str
    size: int
    window: int
    opened_version: int
    opened_at: float
    redrive_of: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """A sample in its terminal state."""

    sample_id: str
    group_id: str
    prompt_id: str
    purpose: Purpose
    state: State
    reason: str = ""
    reward: float | None = None
    num_response_tokens: int = 0
    finish_reason: int = 0
    min_version: int = 0
    max_version: int = 0
    lineage: str = ""
    step: int = 0
    payload_id: str = ""
    payload_bytes: int = 0
    opened_at: float = 0.0
    ended_at: float = 0.0
    num_saved_tokens: int = 0
    """Of one that is open after all, in a listing; no column."""
    correct: float | None = None
    """Of a scored one: how right its answer is, from 0 to 1; what a pass is decided on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A terminal state for one sample of a group."""

    index: int
    state: State
    reason: str = ""


class Evidence(NamedTuple):
    """What a finished training group says of its prompt. A tuple: a long run has millions of them."""

    number: int
    """Its place in the order of finishing."""
    prompt_id: str
    num_scored: int
    passed: float
    """Sum of how right the scored samples are, each from 0 to 1."""
    step: int
    """The last committed step when it finished, or the step that learned it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedGroup:
    """A group of an outstanding or committed batch, with all it takes to deliver it again. Step -1: ready,
    in no batch.
    """

    group_id: str
    step: int
    position: int
    policy_version: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenGroup:
    """A group of the ledger that is not over: what has ended of it, and the batch it is in."""

    row: GroupRow
    endings: Mapping[int, Ending]
    leased: LeasedGroup | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """A step some lineage of checkpoints has learned."""

    lineage: str
    step: int
    batch_id: str
    sample_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """A line of checkpoints. It shares the steps up to `forked_at` with its parent."""

    lineage: str
    parent: str
    forked_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """An announced version."""

    version: int
    manifest: str
    manifest_id: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedSample:
    """A terminal sample of an evaluation round. Without a reward it has failed, or the run ended first."""

    group_id: str
    reason: str
    reward: float | None
    correct: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PassEstimate:
    """pass@k of a round, with its interval."""

    k: int
    value: float
    low: float
    high: float
    num_prompts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """What a complete round says of the policy."""

    confidence: float
    num_scored_prompts: int
    reward_low: float | None
    reward_high: float | None
    pass_at: tuple[PassEstimate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """An evaluation round."""

    version: int
    num_prompts: int
    samples_per_prompt: int = 1
    state: RoundState = RoundState.OPEN
    num_scored: int = 0
    num_failed: int = 0
    mean_reward: float = 0.0
    estimates: Estimates | None = None

    @property
    def complete(self) -> bool:
        """Every sample has ended by itself."""
        return self.state is RoundState.COMPLETE

    @property
    def num_samples(self) -> int:
        """Samples asked for."""
        return self.num_prompts * self.samples_per_prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something a person may want to know happened."""

    at: float
    kind: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedEvent:
    """A RunEvent as it was reported, and the step that has to stand for it to stand."""

    event_id: str
    step: int
    body: bytes
    number: int = 0
    """Its place among all; 0 before it is entered."""
    undone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """A second, different terminal state that was refused."""

    at: float
    sample_id: str
    kept: State
    refused: State
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """What is slow and durable about the run: the ledger is its truth, Redis has a copy for the scripts."""

    phase: Phase
    reason: str
    automatic: bool
    epoch: int
    lineage: str
    step: int
    version: int
    window: int
    """As the trainer said last; 0: the run file's first."""
