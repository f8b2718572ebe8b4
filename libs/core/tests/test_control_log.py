"""The record of what was asked of a run: two lines an action, whole, and nothing done without them."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from forklight_core.control_log import FILE, Outcome, audited, read_lines
from forklight_core.errors import BusyError, InvalidInputError, PreconditionError


def test_an_action_has_its_line_before_it_is_done(tmp_path: Path) -> None:
    with audited(tmp_path, who="me", action="pause", reason=" why\nnot ", target="t") as answer:
        (line,) = read_lines(tmp_path, limit=9)
        assert (line.who, line.reason, line.outcome) == ("me", "why not", Outcome.ASKED)
        answer.detail = "paused"
    (line,) = read_lines(tmp_path, limit=9)
    assert (line.outcome, line.detail, line.target) == (Outcome.DONE, "paused", "t")
    assert len((tmp_path / FILE).read_text().splitlines()) == 2


def test_a_failure_is_written_and_goes_on(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError), audited(tmp_path, who="me", action="pause", reason="x"):
        raise PreconditionError("the run is over")
    with pytest.raises(KeyboardInterrupt), audited(tmp_path, who="me", action="resume", reason="x"):
        raise KeyboardInterrupt
    newest, oldest = read_lines(tmp_path, limit=9)
    assert (oldest.outcome, oldest.detail) == (Outcome.FAILED, "the run is over")
    assert (newest.action, newest.outcome) == ("resume", Outcome.FAILED)


def test_nothing_is_done_without_a_reason_or_a_line(tmp_path: Path) -> None:
    done = []
    with (
        pytest.raises(InvalidInputError, match="a reason is needed"),
        audited(tmp_path, who="me", action="pause", reason=" "),
    ):
        done.append("without a reason")
    with (
        pytest.raises(BusyError, match="cannot be written"),
        audited(tmp_path / "absent", who="me", action="pause", reason="x"),
    ):
        done.append("without a line")
    assert not done and read_lines(tmp_path, limit=9) == []


def test_lines_are_whole_whoever_else_writes_and_what_is_torn_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(b'\xff{"no": "line"}\n{"torn": ')

    def act(number: int) -> None:
        for turn in range(10):
            with audited(tmp_path, who=f"w{number}", action="pause", reason="r" * 1500, target=str(turn)):
                pass

    threads = [threading.Thread(target=act, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = read_lines(tmp_path, limit=99)
    assert len(lines) == 40 and {line.outcome for line in lines} == {Outcome.DONE}
    assert len(read_lines(tmp_path, limit=3)) == 3
    for raw in path.read_text(errors="replace").splitlines()[2:]:
        assert json.loads(raw)["action"] == "pause"
