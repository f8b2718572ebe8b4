"""What people see of steering and evaluation: the window, events once each, figures with their intervals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from forklight.v1 import buffer_pb2, types_pb2
from forklight_cli.buffer_client import BufferClient
from forklight_cli.commands.status import print_status
from forklight_cli.run_folder import create_run_folder
from forklight_cli.up import run as up_run
from forklight_cli.up.evaluations import EvaluationLog, Round, round_of
from forklight_cli.up.events import EventWatch
from forklight_cli.up.run import Watched, watch
from forklight_cli.up.signals import StopSignals
from forklight_cli.up.steps import StepReader
from forklight_cli.up.system import System
from forklight_cli.up.table import LineView
from forklight_core.runfile import RunFile, dump_run_file

RESULT = buffer_pb2.EvaluationResult(
    version=5,
    num_samples=250,
    num_failed=6,
    mean_reward=0.625,
    reward_low=0.5125,
    reward_high=0.7375,
    num_prompts=64,
    samples_per_prompt=4,
    complete=True,
    pass_at=[buffer_pb2.PassAtK(k=4, value=0.875, low=0.78, high=0.95, num_prompts=61)],
)


def event(name: str, *, undone: bool = False) -> types_pb2.RunEvent:
    return types_pb2.RunEvent(
        id=name,
        kind="alert",
        severity=types_pb2.SEVERITY_WARNING,
        step=7,
        at=5.0,
        title=f"{name} fell",
        undone=undone,
    )


def test_status_prints_the_window_events_and_rounds_with_intervals(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cut = buffer_pb2.EvaluationResult(version=7, num_prompts=64, samples_per_prompt=4, cut=True)
    print_status(
        buffer_pb2.GetStatusReply(
            phase=buffer_pb2.RUN_PHASE_RUNNING,
            window_tokens=49152,
            events=[event(f"e{number}") for number in range(8)],
            evaluations=[RESULT, cut],
            num_skipped_evaluations=2,
        )
    )
    said = capsys.readouterr().out
    assert "window     49152 tokens" in said
    assert (
        "version 5: reward 0.625 [0.512, 0.738], pass@4 0.875 [0.780, 0.950] "
        "(64 prompts x 4, 6 without a score)\n" in said
    )
    assert "version 7: reward 0.000 (64 prompts x 4), the run ended first" in said
    assert "2 rounds skipped" in said
    assert [line[-7:] for line in said.splitlines() if "  event " in line] == [
        f"e{number} fell" for number in range(3, 8)
    ]
    assert "warning at step 7, alert: e7 fell" in said


def test_events_are_shown_once_and_again_when_they_are_undone() -> None:
    watch_events = EventWatch()
    old = buffer_pb2.GetStatusReply(events=[event("a")])
    assert watch_events.find_new(old) == []  # what was there before somebody looked
    now = buffer_pb2.GetStatusReply(events=[event("a"), event("b")])
    assert [text.rpartition("alert: ")[2] for text in watch_events.find_new(now)] == ["b fell"]
    assert watch_events.find_new(now) == []
    back = buffer_pb2.GetStatusReply(events=[event("a"), event("b", undone=True)])
    assert [text.rpartition("alert: ")[2] for text in watch_events.find_new(back)] == ["undone: b fell"]


def test_rounds_keep_their_intervals_in_the_run_folder_and_old_files_are_read(tmp_path: Path) -> None:
    folder = create_run_folder(tmp_path / "run", "run-1", dump_run_file(RunFile()))
    old = {"version": 0, "num_samples": 8, "num_failed": 0, "mean_reward": 0.25}
    (folder.path / "evaluations.jsonl").write_text(json.dumps(old) + "\n")
    EvaluationLog(folder).add(buffer_pb2.GetStatusReply(evaluations=[RESULT]))
    first, second = EvaluationLog(folder).rounds
    assert first == Round(version=0, num_samples=8, num_failed=0, mean_reward=0.25)
    assert second == round_of(RESULT)
    assert (str(first), str(second)) == ("0.250", "0.625 [0.512, 0.738], pass@4 0.875 [0.780, 0.950]")


@dataclass
class EndedSystem:
    """The trainer has ended; nothing else happens."""

    revived: list[int] = field(default_factory=list)
    processes: dict[str, object] = field(default_factory=dict)

    def check(self) -> None:
        return None

    def lost(self) -> None:
        return None

    def trainer_has_ended(self) -> bool:
        return True

    def revive_trainer(self) -> None:
        self.revived.append(1)


@dataclass
class TellingBuffer:
    """Answers with one status after the other."""

    statuses: Iterator[buffer_pb2.GetStatusReply]

    def status(self, *, timeout_s: float = 0.0) -> buffer_pb2.GetStatusReply:
        return next(self.statuses)


@pytest.mark.parametrize(("is_last_evaluation", "num_revived"), [(True, 0), (False, 1)])
def test_a_trainer_that_is_done_is_not_started_again_while_its_last_version_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_last_evaluation: bool, num_revived: int
) -> None:
    monkeypatch.setattr(up_run, "WATCH_EVERY_S", 0.001)
    monkeypatch.setattr(up_run, "STATUS_EVERY_S", 1000.0)
    folder = create_run_folder(tmp_path / "run", "run-1", dump_run_file(RunFile()))
    draining = buffer_pb2.GetStatusReply(
        phase=buffer_pb2.RUN_PHASE_DRAINING, is_last_evaluation=is_last_evaluation
    )
    finished = buffer_pb2.GetStatusReply(phase=buffer_pb2.RUN_PHASE_FINISHED, reason="version 5 is evaluated")
    system = EndedSystem()
    watched = Watched(
        system=cast("System", system),
        buffer=cast("BufferClient", TellingBuffer(iter([draining, draining, finished]))),
        steps=StepReader(folder.steps, skip_existing=True),
        evaluations=EvaluationLog(folder),
        events=EventWatch(),
        view=LineView(),
    )
    with StopSignals() as stops:
        assert watch(watched, stops) == "version 5 is evaluated"
    assert len(system.revived) == num_revived
