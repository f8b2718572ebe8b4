"""The ledger by itself: durable settings, one terminal row a sample, rewinds that leave a trace."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from forklight_buffer.adapters.sqlite import SqliteLedger
from forklight_buffer.adapters.sqlite.lineages import Segment, ancestry, owner_of, shared_steps
from forklight_buffer.ledger import SampleFilter
from forklight_buffer.records import GroupRow, Lineage, SampleRow
from forklight_buffer.states import Phase, Purpose, RoundState, State
from forklight_core.errors import DataLossError

GROUP = GroupRow(
    group_id="r/g00000000",
    purpose=Purpose.TRAIN,
    index=0,
    position=0,
    prompt_id="p",
    kind="math",
    size=2,
    window=10,
    opened_version=0,
    opened_at=1.0,
)


def row(index: int, state: State, reason: str = "") -> SampleRow:
    return SampleRow(
        sample_id=f"{GROUP.group_id}/s{index:03d}",
        group_id=GROUP.group_id,
        prompt_id="p",
        purpose=Purpose.TRAIN,
        state=state,
        reason=reason,
        ended_at=2.0,
    )


def test_the_file_is_durable_with_every_commit(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "ledger.sqlite")
    assert ledger._db.number("PRAGMA synchronous") == 2
    mode = ledger._db.row("PRAGMA journal_mode")
    assert mode is not None and mode[0] == "wal"
    ledger.close()


def test_a_second_state_is_refused_and_recorded_once() -> None:
    ledger = SqliteLedger(None)
    ledger.journal_groups([GROUP, GROUP])
    first = ledger.enter_samples([row(0, State.FILTERED, "all_equal")])
    assert (len(first.new), first.conflicts) == (1, ())
    again = ledger.enter_samples([row(0, State.FILTERED, "all_equal")])
    assert (again.new, again.conflicts) == ((), ())
    for _ in range(2):
        other = ledger.enter_samples([row(0, State.STALE), row(1, State.STALE)])
    assert [(item.kept, item.refused) for item in other.conflicts] == [(State.FILTERED, State.STALE)]
    assert len(ledger.conflicts()) == 1
    assert ledger.tallies() == {(State.FILTERED, "all_equal"): 1, (State.STALE, ""): 1}
    ledger.close()


def test_a_group_is_over_when_its_last_sample_has_ended() -> None:
    ledger = SqliteLedger(None)
    ledger.journal_groups([GROUP])
    ledger.enter_samples([row(1, State.INFRA_FAILED, "dead_letter: five times")])
    (group,) = ledger.open_groups()
    assert group.endings[1].state is State.INFRA_FAILED
    ledger.enter_samples([row(0, State.REWARD_FAILED, "infra_error: x")])
    assert ledger.open_groups() == []
    assert ledger.tallies() == {
        (State.REWARD_FAILED, "infra_error"): 1,
        (State.INFRA_FAILED, "dead_letter"): 1,
    }
    listed = ledger.list_samples(SampleFilter(state=State.REWARD_FAILED))
    assert [item.reason for item in listed] == ["infra_error: x"]
    ledger.close()


def test_nothing_is_kept_of_a_transaction_that_failed() -> None:
    ledger = SqliteLedger(None)
    ledger.journal_groups([GROUP])
    with pytest.raises(DataLossError, match="refused a transaction"):
        ledger.enter_samples([row(0, State.STALE), replace(row(1, State.STALE), state=State.QUEUED)])
    assert ledger.tallies() == {}
    ledger.set_phase(Phase.PAUSED, "why", automatic=False)
    assert ledger.control().phase is Phase.PAUSED
    ledger.close()


def test_a_ledger_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(DataLossError, match="ledger format 99"):
        SqliteLedger(path)


LINES = {
    "a": Lineage(lineage="a", parent="", forked_at=0),
    "b": Lineage(lineage="b", parent="a", forked_at=5),
    "c": Lineage(lineage="c", parent="b", forked_at=3),
}


def test_an_ancestry_holds_the_steps_a_checkpoint_has_learned() -> None:
    assert ancestry(LINES, "b", 8) == [
        Segment(lineage="a", low=0, high=5),
        Segment(lineage="b", low=5, high=8),
    ]
    assert ancestry(LINES, "c", 4) == [
        Segment(lineage="a", low=0, high=3),
        Segment(lineage="c", low=3, high=4),
    ]
    assert ancestry(LINES, "a", 0) == ancestry(LINES, "", 0) == []
    assert [owner_of(ancestry(LINES, "c", 4), step) for step in (1, 3, 4, 5)] == ["a", "a", "c", ""]


def test_two_ancestries_share_their_beginning() -> None:
    def shared(one: tuple[str, int], other: tuple[str, int]) -> int:
        return shared_steps(ancestry(LINES, *one), ancestry(LINES, *other))

    assert shared(("a", 10), ("a", 8)) == 8
    assert shared(("b", 8), ("a", 7)) == 5
    assert shared(("b", 8), ("c", 4)) == 3
    assert shared(("b", 8), ("b", 8)) == 8
    assert shared(("b", 8), ("", 0)) == 0


def test_a_broken_ancestry_is_named() -> None:
    with pytest.raises(DataLossError, match="descends from x"):
        ancestry({"d": Lineage(lineage="d", parent="x", forked_at=1)}, "d", 2)
    with pytest.raises(DataLossError, match="circle"):
        ancestry({"d": Lineage(lineage="d", parent="d", forked_at=1)}, "d", 2)


FORMAT_1 = """
CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE samples (
  sample_id TEXT PRIMARY KEY, group_id TEXT NOT NULL, prompt_id TEXT NOT NULL, purpose INTEGER NOT NULL,
  state INTEGER NOT NULL CHECK (state BETWEEN 10 AND 15), reason TEXT NOT NULL, reward REAL,
  num_response_tokens INTEGER NOT NULL, finish_reason INTEGER NOT NULL,
  min_version INTEGER NOT NULL, max_version INTEGER NOT NULL, lineage TEXT NOT NULL, step INTEGER NOT NULL,
  payload_id TEXT NOT NULL, payload_bytes INTEGER NOT NULL, opened_at REAL NOT NULL, ended_at REAL NOT NULL,
  kept INTEGER NOT NULL DEFAULT 1
) WITHOUT ROWID;
CREATE TABLE evaluations (
  version INTEGER PRIMARY KEY, num_prompts INTEGER NOT NULL, num_scored INTEGER NOT NULL DEFAULT 0,
  num_failed INTEGER NOT NULL DEFAULT 0, mean_reward REAL NOT NULL DEFAULT 0, due_at REAL NOT NULL,
  completed_at REAL );
INSERT INTO samples VALUES
  ('r/g00000000/s000', 'r/g00000000', 'p', 1, 11, '', 1.0, 3, 1, 0, 0, '', 0, 'b', 9, 0, 1, 1);
INSERT INTO evaluations VALUES (0, 8, 7, 1, 0.5, 0.0, 2.0), (5, 8, 0, 0, 0.0, 3.0, NULL);
PRAGMA user_version = 1;
"""


def test_a_ledger_of_the_release_before_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as old:
        old.executescript(FORMAT_1)
    for _ in range(2):  # brought up once, then read as it is
        ledger = SqliteLedger(path)
        found = ledger.read_sample("r/g00000000/s000")
        assert found is not None and (found.state, found.reward, found.correct) == (State.FILTERED, 1.0, None)
        assert [(each.version, each.state, each.num_scored) for each in ledger.rounds(9)] == [
            (0, RoundState.COMPLETE, 7),
            (5, RoundState.OPEN, 0),
        ]
        assert ledger.rounds(1)[0].samples_per_prompt == 1
        assert ledger.reported_events(after=0, limit=9, newest_first=False) == []
        ledger.close()
