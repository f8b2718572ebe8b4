"""A judge that pays for length: judged prompts are drawn less, until it says that it does no more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forklight.v1 import types_pb2
from forklight_buffer.adapters.sqlite import SqliteLedger
from forklight_buffer.curriculum.judged import EVENTS_AT_ONCE, JudgedWeight
from forklight_buffer.curriculum.schedule import Moment
from forklight_buffer.curriculum.state import CurriculumState
from forklight_buffer.records import ReportedEvent
from services.buffer.tests.curriculum_world import assert_shares, book_of, domain_rows, draw_free, run_file_of


def event(number: int, evidence: object, *, kind: str = "judge_recalibrated") -> ReportedEvent:
    body = types_pb2.RunEvent(id=f"e{number}", kind=kind, evidence_json=json.dumps(evidence))
    return ReportedEvent(event_id=body.id, step=0, body=body.SerializeToString())


def test_prompts_of_a_domain_lose_weight_by_the_share_of_them_that_is_judged(tmp_path: Path) -> None:
    rows = [
        *domain_rows("math", 20),
        *domain_rows("general", 20, kind="judge"),
        *domain_rows("mixed", 10),
        *domain_rows("mixed", 10, kind="judge"),
    ]
    book = book_of(tmp_path, rows)
    state = CurriculumState(book, run_file_of())
    moment = Moment(step=0, window=10, judged=0.5)
    assert state.weights(moment) == {"math": 20.0, "general": 10.0, "mixed": 15.0}
    names = draw_free(state, book, 900, moment)
    assert_shares(names, {"math": 20 / 45, "general": 10 / 45, "mixed": 15 / 45})
    switched_off = Moment(step=0, window=10, judged=0.0)
    assert all(not name.startswith("general") for name in draw_free(state, book, 200, switched_off))


def test_the_newest_word_of_the_judge_holds_and_a_restart_reads_it_again() -> None:
    ledger = SqliteLedger(None)
    judged = JudgedWeight(ledger)
    judged.catch_up()
    assert judged.factor == 1.0
    ledger.report_events([event(n, {"step": n}, kind="curriculum_level") for n in range(EVENTS_AT_ONCE + 1)])
    for number, (said, holds) in enumerate([(0.5, 0.5), (0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (0.5, 0.5)]):
        ledger.report_events([event(10_000 + number, {"general_weight": said})])
        judged.catch_up()
        assert judged.factor == holds
    fresh = JudgedWeight(ledger)
    fresh.catch_up()
    assert fresh.factor == 0.5


@pytest.mark.parametrize(
    "evidence", [{}, {"general_weight": -1}, {"general_weight": "0"}, {"general_weight": 2.0}, [], None]
)
def test_an_event_without_a_sound_weight_changes_nothing_and_is_logged(
    evidence: object, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = SqliteLedger(None)
    ledger.report_events([event(1, {"general_weight": 0.5}), event(2, evidence)])
    judged = JudgedWeight(ledger)
    judged.catch_up()
    assert judged.factor == 0.5
    assert "general_weight" in caplog.text
