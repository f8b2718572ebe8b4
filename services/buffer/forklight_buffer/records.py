"""Nouns of the buffer that live inside its process: rows of the ledger and what Redis holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from forklight_buffer.states import Phase, Purpose, State, Status
from forklight_core import ids
from forklight_core.queues import Lease

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A terminal state for one sample of a group."""

    index: int
    state: State
    reason: str = ""


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
class Round:
    """An evaluation round."""

    version: int
    num_prompts: int
    num_scored: int = 0
    num_failed: int = 0
    mean_reward: float = 0.0
    complete: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something a person may want to know happened."""

    at: float
    kind: str
    detail: str


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
    by_opener: bool
    epoch: int
    lineage: str
    step: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What admission is decided on."""

    version: int
    step: int
    open_groups: int
    ready_groups: int
    leased_groups: int
    evaluating_groups: int
    held_tokens: int
    held_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSample:
    """A sample as Redis has it."""

    index: int
    state: State
    since: float
    min_version: int
    num_tokens: int
    num_bytes: int
    reason: str
    trajectory: bytes = b""
    verdict: bytes = b""
    reward: float | None = None
    scoring_entry: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveGroup:
    """A group as Redis has it."""

    group_id: str
    status: Status
    purpose: Purpose
    prompt_id: str
    kind: str
    spec_id: str
    spec_bytes: int
    window: int
    index: int
    position: int
    opened_version: int
    opened_at: float
    task_entry: str
    step: int | None
    samples: tuple[LiveSample, ...]

    @property
    def num_terminal(self) -> int:
        """Samples that are over."""
        return sum(sample.state.terminal for sample in self.samples)

    def row(self) -> GroupRow:
        """The group as the ledger keeps it."""
        return GroupRow(
            group_id=self.group_id,
            purpose=self.purpose,
            index=self.index,
            position=self.position,
            prompt_id=self.prompt_id,
            kind=self.kind,
            size=len(self.samples),
            window=self.window,
            opened_version=self.opened_version,
            opened_at=self.opened_at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A group to be opened: its row, its task, where its answer lies, and what of it is over already."""

    row: GroupRow
    task: bytes
    spec_id: str
    spec_bytes: int
    endings: tuple[Ending, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A trajectory at the door."""

    sample_id: str
    lease: Lease
    min_version: int
    num_tokens: int
    num_bytes: int
    cancelled: bool
    trajectory: bytes
    scoring_task: bytes

    @property
    def group_id(self) -> str:
        """Its group."""
        return ids.group_of(self.sample_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict at the door: a reward, or the terminal state of a sample that has none."""

    sample_id: str
    lease: Lease
    verdict: bytes
    reward: float | None
    state: State = State.REWARD_FAILED
    reason: str = ""

    @property
    def group_id(self) -> str:
        """Its group."""
        return ids.group_of(self.sample_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Restoration:
    """A group to be written into Redis as the ledger knows it."""

    row: GroupRow
    step: int | None
    samples: tuple[LiveSample, ...]
    spec_id: str = ""
    spec_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLease:
    """A batch as Redis has it."""

    step: int
    policy_version: int
    group_ids: tuple[str, ...]
    is_new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Burial:
    """An entry that was delivered too often."""

    queue: str
    entry_id: str
    group_id: str
    idle_s: float
    num_allowed: int
    reason: str
    letter: bytes = field(repr=False)
