"""Nouns of the live state: what Redis holds of a run, and what is asked of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from forklight_buffer.records import Ending, GroupRow
from forklight_buffer.states import Outcome, Purpose, State, Status
from forklight_core import ids
from forklight_core.queues import Lease


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
    window: int
    """Of groups opened now, in tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSegment:
    """A saved stretch of a response that is not finished."""

    start: int
    num_tokens: int
    payload_id: str
    payload_bytes: int
    min_version: int


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
    segments: tuple[LiveSegment, ...] = ()

    @property
    def num_saved_tokens(self) -> int:
        """Tokens of its segments."""
        return sum(segment.num_tokens for segment in self.segments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Discard:
    """A segment's blob that nobody needs any more. No reason: its tokens are in an accepted trajectory."""

    payload_id: str
    num_tokens: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """What never changes about a group and every trajectory of it needs."""

    size: int
    window: int
    kind: str
    spec_id: str
    spec_bytes: int
    opened_version: int = 0


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
    queue: str
    task_entry: str
    step: int | None
    samples: tuple[LiveSample, ...]
    trash: bytes = b""

    @property
    def discards(self) -> list[Discard]:
        """What its trash says."""
        fields = (line.split("|", 2) for line in self.trash.decode().splitlines())
        return [
            Discard(payload_id=payload_id, num_tokens=int(num_tokens), reason=reason)
            for payload_id, num_tokens, reason in fields
        ]

    @property
    def num_terminal(self) -> int:
        """Samples that are over."""
        return sum(sample.state.terminal for sample in self.samples)

    @property
    def facts(self) -> GroupFacts:
        """What never changes."""
        return GroupFacts(
            size=len(self.samples),
            window=self.window,
            kind=self.kind,
            spec_id=self.spec_id,
            spec_bytes=self.spec_bytes,
            opened_version=self.opened_version,
        )

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
    payload_id: str

    @property
    def group_id(self) -> str:
        """Its group."""
        return ids.group_of(self.sample_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingSample:
    """A sample that waits for its trajectory, and how far its response got."""

    index: int
    segments: tuple[LiveSegment, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentsNow:
    """How a response stands after its segments were added to or dropped."""

    outcome: Outcome
    num_saved_tokens: int = 0
    num_dropped_tokens: int = 0
    dropped: tuple[str, ...] = ()


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
    index: int | None = None
    """Of the sample, for an entry of the scoring queue that could be read."""


class Burying(IntEnum):
    """What became of a burial."""

    HELD = 0
    BURIED = 1
    RENEWED = 2
    """Its group has segments to go on from: it waits again, as a new entry."""
