"""What the buffer needs from outside: the live state (Redis), the ledger (SQLite) and a clock. Blobs come
from core.

Every method of LiveState is atomic, idempotent, and refuses to run on a server that restarted until the
ledger and it have been reconciled (UnavailableError; callers try again).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from forklight_buffer.live import (
    Arrival,
    BatchLease,
    Burial,
    Burying,
    Judgement,
    LiveGroup,
    LiveSegment,
    Opening,
    PendingSample,
    Restoration,
    SegmentsNow,
    Standing,
)
from forklight_buffer.records import Ending
from forklight_buffer.states import Outcome, Phase, State, Status
from forklight_core.queues import Lease, QueueStats

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What became of a submission, and where its group stands since."""

    outcome: Outcome
    status: Status | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoBatch:
    """Why there is no batch: the phase, or groups that are still missing."""

    phase: Phase | None = None
    num_missing: int = 0


class QueueName(StrEnum):
    """The work queues: rollout takes from the first two, reward from the last."""

    TASKS = "tasks"
    EVALUATE = "evaluate"
    SCORING = "scoring"


@dataclass(frozen=True, slots=True, kw_only=True)
class OverdueEntry:
    """An entry whose lease expired, and how often it was delivered."""

    entry_id: str
    num_deliveries: int
    body: bytes


class Entries(Protocol):
    """What lies on the work queues; read only."""

    async def stats(self, queue: QueueName) -> QueueStats:
        """Depth, leases and age."""
        ...

    async def holder(self, queue: QueueName, entry_id: str) -> str:
        """Who holds an entry; empty when nobody took it."""
        ...

    async def overdue(
        self, queue: QueueName, *, idle_s: float, num_deliveries: int, limit: int
    ) -> list[OverdueEntry]:
        """Entries delivered so often and not renewed for so long."""
        ...


class LiveState(Protocol):
    """Open samples, queues, credit."""

    async def open_group(self, opening: Opening) -> bool:
        """Open a group; False when it was open."""
        ...

    async def submit_trajectory(self, arrival: Arrival) -> Accepted:
        """NotFoundError for a group nobody knows, FencedError for a lease that is not the newest."""
        ...

    async def submit_verdict(self, judgement: Judgement) -> Accepted:
        """NotFoundError for a sample without trajectory, FencedError for a lease that is not the newest."""
        ...

    async def pending_samples(self, group_id: str, lease: Lease) -> list[PendingSample]:
        """What waits for a trajectory."""
        ...

    async def save_segment(self, sample_id: str, segment: LiveSegment, lease: Lease) -> SegmentsNow:
        """Append a segment. NotFoundError and FencedError as for a trajectory; InvalidInputError when it does
        not follow what is saved."""
        ...

    async def drop_segments(self, sample_id: str, from_start: int, lease: Lease) -> SegmentsNow:
        """Forget the segments from a token on; InvalidInputError when none starts there."""
        ...

    async def lease_batch(self, *, epoch: int, step: int) -> BatchLease | NoBatch:
        """The batch of a step; FencedError for an old epoch, PreconditionError for a step out of order."""
        ...

    async def commit_step(self, step: int, sample_ids: Sequence[str]) -> list[str]:
        """The ledger has this step; returns samples that had ended otherwise."""
        ...

    async def close_samples(
        self, group_id: str, endings: Sequence[Ending], *, by_ledger: bool = False
    ) -> list[int]:
        """Terminal states for samples; returns indices that had ended otherwise: only the ledger overrules.

        Nothing happens for an unknown group.
        """
        ...

    async def close_group(self, group_id: str, state: State, reason: str, *, leased_too: bool) -> int:
        """End all open samples of a group; returns how many."""
        ...

    async def forget_group(self, group_id: str, num_known: int, num_trash_bytes: int = 0) -> bool:
        """The ledger has so many terminal samples of it, and so much of its trash; True when it is gone."""
        ...

    async def bury_entry(self, burial: Burial) -> Burying:
        """Dead letter, unless somebody holds the entry again or its group got further meanwhile."""
        ...

    async def set_run(self, fields: Mapping[str, str], *, weights: bytes = b"") -> None:
        """Copy control fields."""
        ...

    async def restore_group(self, restoration: Restoration) -> Status:
        """Write a group as the ledger knows it."""
        ...

    async def place_batch(self, step: int, policy_version: int, group_ids: Sequence[str]) -> None:
        """Set an outstanding batch; without groups dissolve it."""
        ...

    async def read_group(self, group_id: str) -> LiveGroup | None:
        """A group with its samples."""
        ...

    async def live_groups(self, *, opened_before: float | None = None) -> list[str]:
        """Groups Redis knows, oldest first."""
        ...

    async def unmoved_groups(self, group_ids: Sequence[str], before: float) -> list[str]:
        """Those of them with an open sample that has been where it is since before then."""
        ...

    async def unjournalled(self, limit: int) -> list[str]:
        """Groups with terminal samples the ledger may lack."""
        ...

    async def batches(self) -> dict[int, tuple[str, ...]]:
        """Outstanding batches: step to group ids."""
        ...

    async def standing(self) -> Standing:
        """What admission is decided on."""
        ...

    async def open_counts(self) -> dict[State, int]:
        """Open samples by state."""
        ...

    async def dead_letters(self) -> dict[str, bytes]:
        """Serialized DeadLetter by id."""
        ...

    async def drop_dead_letters(self, letter_ids: Sequence[str]) -> None:
        """Forget dead letters."""
        ...
