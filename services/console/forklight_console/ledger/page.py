"""The ledger in words: states, what is stuck, dead letters, commits, what was given up and refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forklight.v1 import buffer_pb2, types_pb2
from forklight_console.shown import enum_word, format_moment, visible


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRow:
    """Samples in a state for a reason."""

    state: str
    reason: str
    num_samples: str
    share: float
    link: str
    is_open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckRow:
    """A sample that has not moved for too long."""

    name: str
    link: str
    state: str
    since: str
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterRow:
    """A queue entry that was given up."""

    id: str
    moment: str
    queue: str
    what: str
    link: str
    num_deliveries: int
    reason: str


Table = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerPage:
    """What the template draws."""

    states: Sequence[StateRow]
    num_samples: str
    stuck: Sequence[StuckRow]
    letters: Sequence[LetterRow]
    num_letters: int
    commits: Sequence[tuple[Sequence[str], bool]]
    num_commits: int
    lineages: Table
    rollbacks: Table
    conflicts: Sequence[tuple[str, str, Sequence[str]]]
    num_conflicts: int
    batches: Table


def make_ledger_page(
    status: buffer_pb2.GetStatusReply,
    letters: Sequence[buffer_pb2.DeadLetter],
    ledger: buffer_pb2.ReadLedgerReply,
) -> LedgerPage:
    """All of it in rows."""
    total = sum(count.num_samples for count in status.counts)
    return LedgerPage(
        states=[_state_row(count, total) for count in status.counts],
        num_samples=f"{total:,}",
        stuck=[
            StuckRow(
                name=_short(each.sample_id),
                link=_link(each.sample_id),
                state=_state(each.state),
                since=format_moment(each.since),
                where=visible(each.where, most=300),
            )
            for each in status.stuck
        ],
        letters=[_letter_row(letter) for letter in letters],
        num_letters=status.num_dead_letters,
        commits=[
            ((each.lineage, str(each.step), f"{each.num_samples:,}", format_moment(each.at)), each.stands)
            for each in ledger.commits
        ],
        num_commits=ledger.num_commits,
        lineages=[
            (each.lineage, each.parent or "-", str(each.forked_at), format_moment(each.at))
            for each in ledger.lineages
        ],
        rollbacks=[
            (
                format_moment(each.at), str(each.epoch), each.from_lineage or "-",
                f"{each.first_step} to {each.last_step}", f"{each.num_samples:,}", each.became,
            )
            for each in ledger.rollbacks
        ],
        conflicts=[
            (
                _short(each.sample_id), _link(each.sample_id),
                _conflict(each),
            )
            for each in ledger.conflicts
        ],
        num_conflicts=ledger.num_conflicts,
        batches=[(str(each.step), str(each.num_groups)) for each in ledger.batches],
    )  # fmt: skip


def _conflict(each: buffer_pb2.LedgerConflict) -> Sequence[str]:
    detail = visible(each.detail, most=400)
    return (_state(each.kept), _state(each.refused), detail, format_moment(each.at))


def _state_row(count: buffer_pb2.StateCount, total: int) -> StateRow:
    state = _state(count.state)
    return StateRow(
        state=state,
        reason=visible(count.reason, most=100),
        num_samples=f"{count.num_samples:,}",
        share=round(100 * count.num_samples / total, 1) if total else 0.0,
        link=f"/samples?state={state}" + (f"&reason={count.reason}" if count.reason.isidentifier() else ""),
        is_open=count.state < types_pb2.SAMPLE_STATE_TRAINED,
    )


def _letter_row(letter: buffer_pb2.DeadLetter) -> LetterRow:
    what = letter.sample_id or letter.group_id
    return LetterRow(
        id=letter.id,
        moment=format_moment(letter.at),
        queue=letter.queue,
        what=_short(what),
        link=_link(what),
        num_deliveries=letter.num_deliveries,
        reason=visible(letter.reason, most=400),
    )


def _state(state: types_pb2.SampleState) -> str:
    return enum_word(types_pb2.SampleState.Name(state), "SAMPLE_STATE_")


def _short(name: str) -> str:
    """Without the run."""
    return visible(name.partition("/")[2] or name, most=80)


def _link(name: str) -> str:
    """Of a sample or group."""
    parts = name.split("/")
    if len(parts) == 3:
        return f"/samples/{parts[1]}/{parts[2]}"
    return f"/groups/{parts[1]}" if len(parts) == 2 else "/samples"
