"""The calibrations of a run on disk: they outlive restarts, one a policy version, one judge decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from forklight_core.errors import DataLossError, PreconditionError
from forklight_reward.judge.frozen import LEAST_TO_PROBE, FrozenAnswers
from forklight_reward.judge.length_monitor import MonitorState
from forklight_reward.judge.prompt import Question
from forklight_reward.judge.recalibration import Calibration, LadderState, Level, Recalibrator
from forklight_reward.judge.spec import Mode
from forklight_reward.judge.store import MOST_PINS, CalibrationStore

LADDER = LadderState(
    active=Calibration(version=3, level=Level.OFFSET, beta=0.123456789, anchor=7.5),
    pending=Calibration(version=3, level=Level.PROMPT, beta=0.2, anchor=7.25),
    beta=0.1999,
    anchor=7.25,
    num_windows=5,
    raw=MonitorState(cusum=9.75, is_alarm=True, num_quiet=0, gains=True),
    residual=MonitorState(cusum=0.5, num_quiet=2),
    drift=((100.0, 0.5), (101.5, 0.25)),
)


def test_the_ladder_is_the_same_after_a_restart(tmp_path: Path) -> None:
    made = CalibrationStore(tmp_path).propose(LADDER, {"windows": 12}, known=0)
    book = CalibrationStore(tmp_path).read()
    assert book.ladder == LADDER
    assert book.memory == {"windows": 12}
    assert book.current == made == replace(LADDER.pending, version=1)
    again = Recalibrator.resume(LADDER)
    assert again.state == LADDER
    assert again.raw.is_ringing


def test_a_policy_version_keeps_its_calibration_and_old_ones_are_forgotten(tmp_path: Path) -> None:
    store, other = CalibrationStore(tmp_path), CalibrationStore(tmp_path)
    assert store.pin(1) == Calibration()
    current = store.propose(LADDER, {}, known=0)
    assert other.pin(1) == Calibration()
    assert other.pin(2) == store.pin(2) == current
    assert store.propose(LADDER, {}, known=0) is None  # somebody has changed it meanwhile
    assert store.propose(LADDER, {}, known=1) == current  # nothing new
    for version in range(3, 3 + MOST_PINS):
        store.pin(version)
    assert len(store.read().pins) == MOST_PINS
    assert 1 not in store.read().pins


def test_only_a_version_that_was_off_gets_another_calibration(tmp_path: Path) -> None:
    store = CalibrationStore(tmp_path)
    with pytest.raises(PreconditionError, match="nothing to allow"):
        store.allow_again()
    store.propose(replace(LADDER, pending=Calibration(level=Level.OFF, beta=0.3)), {}, known=0)
    assert store.pin(5).level is Level.OFF
    back = store.allow_again()
    assert back.level is Level.PROMPT
    assert store.pin(5) == back
    book = store.read()
    assert book.ladder is not None
    assert not Recalibrator.resume(book.ladder).raw.is_ringing


def test_one_judge_leads_until_it_ends(tmp_path: Path) -> None:
    first, second = CalibrationStore(tmp_path), CalibrationStore(tmp_path)
    assert first.try_to_lead()
    assert first.try_to_lead()
    assert not second.try_to_lead()
    first.close()
    assert second.try_to_lead()
    second.close()


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 2}', '{"format": 1, "current": {}}'])
def test_a_book_that_cannot_be_read_stops_the_judge(tmp_path: Path, text: str) -> None:
    store = CalibrationStore(tmp_path)
    store.pin(1)
    (store.folder / "calibration.json").write_text(text)
    for act in (store.read, lambda: store.pin(1)):
        with pytest.raises(DataLossError, match="begin again"):
            act()
    assert (store.folder / "calibration.json").read_text() == text


def test_frozen_answers_outlive_a_restart_and_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "judge" / "frozen.jsonl"
    frozen = FrozenAnswers(path, most=LEAST_TO_PROBE)
    questions = [Question(task=f"t{n}", reference="r", candidate=f"answer {n} " * 5) for n in range(20)]
    for question in questions:
        frozen.offer(question, Mode.PAIRWISE, 0.5)
        frozen.offer(question, Mode.PAIRWISE, 0.25)
        frozen.offer(question, Mode.FIVE_GRADES, 1.0)
    assert frozen.to_probe() == {}  # not written down yet
    frozen.keep()
    with path.open("a") as file:
        file.write('{"mode": ')
    again = FrozenAnswers(path, most=LEAST_TO_PROBE)
    again.load()
    assert again.to_probe() == frozen.to_probe() == {Mode.PAIRWISE: questions[:LEAST_TO_PROBE]}
    assert path.read_text().endswith("}\n")  # what was cut off is gone
