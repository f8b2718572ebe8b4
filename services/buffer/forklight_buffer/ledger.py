"""The port of the durable ledger: what was opened, how every sample ended, what each lineage has learned.

All methods block (a writing transaction ends with an fsync): async code calls them through asyncio.to_thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from forklight_buffer.lookups import LookupLedger
from forklight_buffer.records import (
    Commit,
    Conflict,
    Control,
    Ending,
    EvaluatedSample,
    Event,
    Evidence,
    GroupRow,
    LeasedGroup,
    Lineage,
    OpenGroup,
    ReportedEvent,
    Round,
    SampleRow,
    Weights,
)
from forklight_buffer.states import Phase, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Entered:
    """What of some terminal rows was new, and what was refused because the sample had ended otherwise."""

    new: tuple[SampleRow, ...]
    conflicts: tuple[Conflict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFilter:
    """Which terminal samples to list."""

    state: State | None = None
    group_id: str = ""
    after: str = ""
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewind:
    """What must change so that exactly the samples a checkpoint has learned from are trained.

    `reverted` were learned by a line of checkpoints that is given up; `adopted` are records of the restored
    line, the last of them, `new_commits`, unknown to the ledger so far.
    """

    lineage: str
    step: int
    is_fork: bool
    reverted: tuple[SampleRow, ...]
    adopted: tuple[Commit, ...]
    new_commits: tuple[Commit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidencePage:
    """Evidence that counts on the line of checkpoints the run is on, and where that line stands."""

    rows: Sequence[Evidence]
    last_number: int
    """Of the rows looked at, counting or not."""
    lineage: str
    step: int
    is_last: bool
    open_prompts: Mapping[str, int]
    """Training groups that are open, by prompt; of the last page, when asked for."""


class GroupLedger(Protocol):
    """Groups and prompts."""

    def journal_groups(self, rows: Sequence[GroupRow]) -> None:
        """Enter groups before they are opened; known ones are left alone."""
        ...

    def read_group(self, group_id: str) -> GroupRow | None:
        """A group as it was opened."""
        ...

    def open_groups(self) -> list[OpenGroup]:
        """Every group that is not over."""
        ...

    def next_index(self) -> int:
        """Index of the next training group."""
        ...

    def next_position(self) -> int:
        """Position of the next prompt in the endless order."""
        ...

    def redriven(self, group_ids: Sequence[str]) -> set[str]:
        """Which groups have a successor for the same prompt."""
        ...


class SampleLedger(Protocol):
    """Terminal states."""

    def enter_samples(self, rows: Sequence[SampleRow]) -> Entered:
        """Enter terminal states. A second, different one of a sample is refused and recorded."""
        ...

    def read_sample(self, sample_id: str) -> SampleRow | None:
        """A terminal sample."""
        ...

    def endings_of(self, group_id: str) -> list[Ending]:
        """Terminal states of a group."""
        ...

    def list_samples(self, wanted: SampleFilter) -> list[SampleRow]:
        """Terminal samples by id."""
        ...

    def tallies(self) -> dict[tuple[State, str], int]:
        """Terminal samples by state and short reason."""
        ...

    def evaluation_scores(self, version: int) -> tuple[int, int, float]:
        """Of a round: scored samples, samples without a score, mean reward."""
        ...

    def evaluated_samples(self, version: int) -> list[EvaluatedSample]:
        """The terminal samples of a round, group by group."""
        ...

    def expired_payloads(self, *, ended_before: float, trained_before_step: int, limit: int) -> list[str]:
        """Payload blobs nobody will ask for again."""
        ...

    def drop_payloads(self, payload_ids: Sequence[str]) -> None:
        """These blobs are deleted."""
        ...

    def discard_payloads(self, payload_ids: Sequence[str], at: float) -> None:
        """Blobs that no sample took, or needs any more; they are deleted later."""
        ...

    def keep_payloads(self, payload_ids: Sequence[str]) -> None:
        """Blobs that are needed after all, if they were discarded."""
        ...


class CommitLedger(Protocol):
    """Batches, commits, lineages."""

    def journal_batch(self, groups: Sequence[LeasedGroup]) -> None:
        """Enter a batch before it leaves."""
        ...

    def leased_groups(self, step: int) -> list[LeasedGroup]:
        """Groups of the batch of a step, in order."""
        ...

    def leased_group(self, group_id: str) -> LeasedGroup | None:
        """How a group that was once in a batch is delivered again."""
        ...

    def enter_commit(
        self, commit: Commit, trained: Sequence[SampleRow], left_out: Sequence[SampleRow], at: float
    ) -> None:
        """A step is learned; PreconditionError when one of its samples had ended otherwise."""
        ...

    def read_commit(self, lineage: str, step: int) -> Commit | None:
        """The record of a step on this lineage itself or the part it shares with its ancestors."""
        ...

    def commits(self) -> list[Commit]:
        """Every record ever entered."""
        ...

    def lineages(self) -> dict[str, Lineage]:
        """Every lineage."""
        ...

    def head(self, lineage: str) -> int:
        """Last step of a lineage."""
        ...

    def plan_rewind(self, lineage: str, step: int, carried: Sequence[Commit]) -> Rewind:
        """What restoring a checkpoint would change; `carried` are the records it brings along.

        PreconditionError when it has learned a step that neither the ledger nor it has a record of.
        """
        ...

    def apply_rewind(
        self, rewind: Rewind, rows: Sequence[SampleRow], *, epoch: int, version: int, window: int, at: float
    ) -> str:
        """Do it, in one transaction. Reverted samples open again, but for those that `rows` end otherwise.

        Returns the lineage from now on.
        """
        ...

    def prune_batches(self, *, before_step: int) -> None:
        """Forget how to deliver batches of steps that can no longer be restored."""
        ...


class RunLedger(Protocol):
    """Control, versions, events of the buffer itself."""

    def control(self) -> Control:
        """How the run stands."""
        ...

    def set_phase(self, phase: Phase, reason: str, *, automatic: bool) -> None:
        """Change the phase."""
        ...

    def announce(self, weights: Weights, at: float) -> None:
        """A new version."""
        ...

    def newest_weights(self) -> Weights | None:
        """The last announced version."""
        ...

    def note(self, name: str) -> str:
        """A remembered text; empty when there is none."""
        ...

    def set_note(self, name: str, value: str) -> None:
        """Remember a text."""
        ...

    def add_event(self, event: Event) -> None:
        """Append an event."""
        ...

    def conflicts(self) -> list[Conflict]:
        """Refused second terminal states."""
        ...


class RoundLedger(Protocol):
    """Evaluation rounds."""

    def open_round(self, due: Round, at: float) -> bool:
        """A round is due, to be held or skipped; False when it was before. A skipped one may be held yet."""
        ...

    def rounds(self, limit: int) -> list[Round]:
        """The last rounds that were not skipped, oldest first."""
        ...

    def open_rounds(self) -> list[Round]:
        """Rounds that are being held, oldest first."""
        ...

    def read_round(self, version: int) -> Round | None:
        """The round of a version."""
        ...

    def num_skipped_rounds(self) -> int:
        """Rounds that were not held."""
        ...

    def unopened_rounds(self) -> Mapping[int, int]:
        """Rounds of which groups are still to be opened: version to groups opened so far."""
        ...

    def close_round(self, finished: Round, at: float) -> None:
        """A round is over: complete, or cut."""
        ...


class ReportLedger(Protocol):
    """What steers the run: the window, and events that were reported."""

    def steer(self, window: int, events: Sequence[ReportedEvent]) -> list[ReportedEvent]:
        """A new window, and events; returns those that were new."""
        ...

    def report_events(self, events: Sequence[ReportedEvent]) -> list[ReportedEvent]:
        """Enter events that do not stand already, at the last committed step at most; returns them."""
        ...

    def reported_events(self, *, after: int, limit: int, newest_first: bool) -> list[ReportedEvent]:
        """A page of all events ever reported, behind the one of a number; 0: from the beginning."""
        ...


class EvidenceLedger(Protocol):
    """What is known of the difficulty of prompts."""

    def evidence(self, *, after: int, limit: int, with_open: bool) -> EvidencePage:
        """Rows after a number, in the order the groups finished, and what is open; one snapshot."""
        ...


class Ledger(
    GroupLedger,
    SampleLedger,
    CommitLedger,
    RunLedger,
    RoundLedger,
    ReportLedger,
    EvidenceLedger,
    LookupLedger,
    Protocol,
):
    """The whole ledger."""

    def close(self) -> None:
        """Give the file free."""
        ...
