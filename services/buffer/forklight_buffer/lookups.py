"""What people look up in the ledger: nouns, and the port. Nothing on the path of a sample asks these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from forklight_buffer.records import Conflict, GroupRow, SampleRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A terminal sample, and the task kind of its prompt."""

    row: SampleRow
    kind: str


class Ended(NamedTuple):
    """What a terminal sample is searched by. A tuple: there are millions of them."""

    sample_id: str
    reward: float | None
    ended_at: float
    num_response_tokens: int
    step: int
    prompt_id: str
    reason: str
    """Without free text."""
    kind: str
    state: int
    finish_reason: int
    purpose: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupMarks:
    """Where the ledger stood: what was open, and what has been written since can be told from it."""

    last_rollback: int = 0
    next_index: int = 0
    num_rounds: int = 0
    """Groups of evaluation rounds."""
    open_groups: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class EnteredCommit:
    """A commit as people look at it."""

    lineage: str
    step: int
    batch_id: str
    num_samples: int
    at: float
    stands: bool
    """It is behind the run's newest checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitPage:
    """Commits, the newest line first, in it the newest step first."""

    commits: Sequence[EnteredCommit]
    has_more: bool
    num_commits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenBack:
    """Terminal states that one restored checkpoint took back."""

    at: float
    epoch: int
    became: str
    from_lineage: str
    first_step: int
    last_step: int
    num_samples: int


class LookupLedger(Protocol):
    """What people look up."""

    def lookup_marks(self) -> LookupMarks:
        """Where the ledger stands."""
        ...

    def opened_groups(self, since: LookupMarks, until: LookupMarks) -> list[str]:
        """Training groups that were opened between the two."""
        ...

    def moved_groups(self, since: LookupMarks) -> frozenset[str]:
        """Groups of which samples were taken back since then, and those of rounds; maybe others."""
        ...

    def num_terminal(self) -> int:
        """Terminal samples there are."""
        ...

    def samples_down(self, *, above: str, below: str, limit: int) -> list[Ended]:
        """Terminal samples with ids between the two, backwards."""
        ...

    def ended_of(self, group_ids: Sequence[str]) -> list[Ended]:
        """Terminal samples of groups, by id."""
        ...

    def samples_of(self, group_ids: Sequence[str]) -> list[Found]:
        """Terminal samples of groups, by id."""
        ...

    def samples_named(self, sample_ids: Sequence[str]) -> list[Found]:
        """Terminal samples of these ids, by id."""
        ...

    def groups_down(self, *, below: int, prompt_id: str, limit: int) -> list[tuple[GroupRow, bool]]:
        """Training groups below an index, backwards, each with whether it is over."""
        ...

    def is_over(self, group_id: str) -> bool:
        """Whether every sample of a group has ended."""
        ...

    def commits_down(self, *, after: tuple[str, int] | None, limit: int) -> CommitPage:
        """Commits behind the one of a lineage and step."""
        ...

    def lineage_times(self) -> dict[str, float]:
        """When each lineage began."""
        ...

    def taken_back(self, limit: int) -> list[TakenBack]:
        """What restored checkpoints took back, the newest first."""
        ...

    def conflicts_down(self, limit: int) -> list[Conflict]:
        """Refused second ends, the newest first."""
        ...

    def num_conflicts(self) -> int:
        """Refused second ends there are."""
        ...
