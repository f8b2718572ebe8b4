"""Window and alarms joined: what the loop is asked to do, what checkpoints bring back, what a replay says."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from forklight.v1 import types_pb2
from forklight_core.errors import InvalidInputError, NotFoundError
from forklight_core.runfile import RunFile
from forklight_trainer.steering.events import Action, ActionKind, EventKind, Severity, finite
from forklight_trainer.steering.figures import StepFigures
from forklight_trainer.steering.messages import run_events
from forklight_trainer.steering.replay import replay
from forklight_trainer.steering.steering import Observation, Steering
from services.trainer.tests.steered_runs import healthy_run, with_column

LOOPING = 0.6  # a share of repeated tokens twice the alarm's limit


def run_file(*, action: str = "warn", **more: object) -> RunFile:
    """Short patience everywhere; one alarm, on repetition."""
    sections: dict[str, object] = {
        "sampling": {"max_new_tokens": 40},
        "length": {"windows": [40, 60, 80], "patience": 10, "min_steps": 12},
        "collapse": {"repetition": {"action": action, "patience": 3}, "roll_back_steps": 10},
    }
    return RunFile.model_validate(sections | more)


def looping_run(*, start: int, num_looping: int, num_steps: int) -> list[StepFigures]:
    """Healthy but for some steps from place `start` on."""
    return with_column(
        healthy_run(0, num_steps), "repeated_share", np.full(num_looping, LOOPING), start=start
    )


def observe_all(steering: Steering, run: list[StepFigures]) -> list[Observation]:
    return [steering.observe(replace(figures, window=steering.window)) for figures in run]


def test_window_when_settings_are_the_defaults_is_the_run_files_and_nothing_is_asked() -> None:
    steering = Steering(RunFile())
    found = observe_all(steering, healthy_run(0, 200))
    assert steering.window == RunFile().sampling.max_new_tokens
    assert {each.action.kind for each in found} == {ActionKind.NONE}
    assert not any(each.events for each in found)


def test_window_when_it_moves_is_an_event_with_its_evidence() -> None:
    steering = Steering(run_file(length={"windows": [1000, 1200], "patience": 10, "min_steps": 12}))
    found = observe_all(steering, [replace(each, perplexity=1.3) for each in healthy_run(0, 15)])
    events = [event for each in found for event in each.events]
    assert [(event.kind, event.severity, event.step, event.source) for event in events] == [
        (EventKind.WINDOW_ADVANCED, Severity.INFO, 12, "length")
    ]
    assert steering.window == 1200
    evidence = json.loads(events[0].evidence_json)
    assert (evidence["window"], evidence["window_after"]) == (1000, 1200)
    assert "perplexity has converged, +0.0% (error 0.0%) over 10 steps" in events[0].title


def test_action_when_an_alarm_pauses_is_asked_for_once() -> None:
    steering = Steering(run_file(action="pause"))
    found = observe_all(steering, looping_run(start=50, num_looping=40, num_steps=90))
    asked = [each for each in found if each.action.kind is not ActionKind.NONE]
    assert [(each.action.kind, each.events[0].step) for each in asked] == [(ActionKind.PAUSE, 53)]
    assert asked[0].action.reason == "collapse.repetition since step 51"
    assert "The run pauses" in asked[0].events[0].title
    assert steering.take_action().kind is ActionKind.PAUSE
    assert steering.take_action() == Action()


def test_action_when_a_pause_and_a_roll_back_ring_together_is_the_pause() -> None:
    collapse = {
        "repetition": {"action": "roll_back", "patience": 3},
        "tail": {"action": "pause", "patience": 3},
    }
    steering = Steering(run_file(collapse=collapse))
    run = with_column(
        looping_run(start=50, num_looping=10, num_steps=60), "tail_ratio", np.full(10, 9.0), start=50
    )
    kinds = {each.action.kind for each in observe_all(steering, run)}
    assert kinds == {ActionKind.NONE, ActionKind.PAUSE}


def test_roll_back_when_trouble_returns_each_time_is_bounded_and_then_a_pause() -> None:
    """A loop with a checkpoint every 5 steps, and responses that loop from step 51 on whatever is done."""
    steering, checkpoints, asked, step = Steering(run_file(action="roll_back")), {0: "{}"}, [], 0
    run = looping_run(start=50, num_looping=100, num_steps=150)
    while step < 100:
        observation = steering.observe(run[step])
        step += 1
        if step % 5 == 0:
            checkpoints[step] = json.dumps(steering.state(), allow_nan=False)
        action = steering.take_action()
        if action.kind is ActionKind.ROLL_BACK:
            asked.append((observation.events[0].step, action.step))
            assert len(asked) < 5, "it goes back for ever"
            assert f"goes back to step {action.step} or before" in observation.events[0].title
            step = max(old for old in checkpoints if old <= action.step)
            steering = Steering(run_file(action="roll_back"))  # or another process, after a crash
            steering.restore(
                json.loads(checkpoints[step]), went_back_from=[from_step for from_step, _ in asked]
            )
        elif action.kind is ActionKind.PAUSE:
            break
    assert asked == [(53, 41), (53, 41)]
    assert step == 53
    assert "rolled back 2 times already and it came back" in action.reason


def test_roll_back_when_the_trouble_was_passed_is_allowed_again() -> None:
    steering = Steering(run_file(action="roll_back"))
    troubled = looping_run(start=50, num_looping=10, num_steps=60)
    kinds = []
    for turn in range(4):
        offset = 100 * turn
        for figures in [*troubled, *healthy_run(1, 40)]:
            kinds.append(steering.observe(replace(figures, step=len(kinds) + 1)).action.kind)
        assert kinds.count(ActionKind.ROLL_BACK) == turn + 1, offset
    assert ActionKind.PAUSE not in kinds


def test_roll_back_when_it_would_go_below_the_beginning_goes_there() -> None:
    steering = Steering(run_file(action="roll_back"))
    found = observe_all(steering, looping_run(start=2, num_looping=5, num_steps=8))
    assert [each.action.step for each in found if each.action.kind is ActionKind.ROLL_BACK] == [0]


def test_action_when_the_trainer_dies_before_it_is_carried_out_is_still_there() -> None:
    steering = Steering(run_file(action="roll_back"))
    observe_all(steering, looping_run(start=50, num_looping=3, num_steps=53))
    restored = Steering(run_file(action="roll_back"))
    restored.restore(json.loads(json.dumps(steering.state(), allow_nan=False)))
    expected = Action(kind=ActionKind.ROLL_BACK, step=41, reason="collapse.repetition since step 51")
    assert restored.take_action() == expected == steering.take_action()


@pytest.mark.parametrize("split", [0, 1, 11, 12, 13, 51, 52, 53, 54, 60, 75, 99])
def test_steering_when_restored_from_json_at_any_step_goes_on_the_same(split: int) -> None:
    """Over a window's advances, an alert and its end, with the last digit of every number."""
    settings = run_file(length={"windows": [40, 60, 80], "patience": 10, "min_steps": 12, "converged": 0.2})
    run = looping_run(start=50, num_looping=6, num_steps=100)
    whole = Steering(settings)
    straight = observe_all(whole, run)
    assert {event.kind for each in straight for event in each.events} >= {
        EventKind.WINDOW_ADVANCED,
        EventKind.ALERT,
        EventKind.ALERT_ENDED,
    }
    before = Steering(settings)
    observe_all(before, run[:split])
    after = Steering(settings)
    after.restore(json.loads(json.dumps(before.state(), allow_nan=False)))
    assert after.state() == before.state()
    assert [repr(each) for each in observe_all(after, run[split:])] == [
        repr(each) for each in straight[split:]
    ]
    assert after.state() == whole.state()


def test_steering_when_the_checkpoint_is_older_than_it_begins_anew() -> None:
    steering = Steering(run_file(length={"windows": [40, 60], "patience": 4, "min_steps": 4}))
    run = [replace(each, perplexity=1.3, length_p99=40.0) for each in healthy_run(0, 5)]
    observe_all(steering, run)
    assert steering.window == 60
    steering.restore({})
    assert (steering.window, steering.take_action(), steering.take_events()) == (40, Action(), [])


@pytest.mark.parametrize(
    ("went_back_from", "kind"),
    [
        ([], ActionKind.ROLL_BACK),
        ([55], ActionKind.ROLL_BACK),
        ([55, 53], ActionKind.PAUSE),
        ([20, 22, 55], ActionKind.ROLL_BACK),  # the first two belong to trouble that was passed
        ([20, 22], ActionKind.ROLL_BACK),
    ],
)
def test_roll_backs_when_the_record_of_them_is_all_that_is_left_are_counted_by_episode(
    went_back_from: list[int], kind: ActionKind
) -> None:
    run = looping_run(start=50, num_looping=3, num_steps=53)
    before = Steering(run_file())
    observe_all(before, run[:41])
    steering = Steering(run_file(action="roll_back"))
    steering.restore(before.state(), went_back_from=went_back_from)
    assert observe_all(steering, run[41:])[-1].action.kind is kind


def test_events_when_taken_are_gone_and_when_a_checkpoint_is_restored_are_said_again() -> None:
    steering = Steering(run_file())
    observe_all(steering, looping_run(start=50, num_looping=3, num_steps=53))
    state = json.loads(json.dumps(steering.state(), allow_nan=False))
    first = steering.take_events()
    assert [event.kind for event in first] == [EventKind.ALERT]
    assert steering.take_events() == []
    steering.restore(state)
    again = steering.take_events()
    assert repr(again) == repr(first)
    messages = [
        run_events(events, lineage="a", updates_per_version=4, at=at)[0]
        for events, at in ((first, 1.0), (again, 2.0))
    ]
    assert [message.id for message in messages] == ["a/53/repetition/alert"] * 2
    assert messages[0].severity == types_pb2.SEVERITY_WARNING
    assert (messages[0].version, messages[0].title) == (13, first[0].title)
    assert json.loads(messages[0].evidence_json)["since"] == 51


def write_steps(path: Path, run: list[StepFigures]) -> Path:
    """As the trainer does: one object a line, null for NaN."""
    lines = []
    for figures in run:
        numbers = {name: float(value) for name, value in asdict(figures).items()}
        lines.append({**finite(numbers), "step": figures.step, "parity_version": 0, "parity_tokens": 100})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_replay_of_a_recording_decides_what_the_live_run_did(tmp_path: Path) -> None:
    run = looping_run(start=50, num_looping=30, num_steps=120)
    run[7] = replace(run[7], tail_ratio=math.nan)
    steering, windows, live = Steering(run_file()), [], []
    for figures in run:
        windows.append(steering.window)
        live.append(steering.observe(replace(figures, window=steering.window)))
    recorded = [replace(figures, window=window) for figures, window in zip(run, windows, strict=True)]
    found = list(replay(write_steps(tmp_path / "steps.jsonl", recorded), run_file()))
    assert [repr(each.observation) for each in found] == [repr(each) for each in live]


def test_replay_when_the_file_is_torn_leaves_the_last_line_out(tmp_path: Path) -> None:
    path = write_steps(tmp_path / "steps.jsonl", healthy_run(0, 3))
    path.write_text(path.read_text() + '{"step": 4, "entr')
    assert [each.figures.step for each in replay(path, RunFile())] == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"step": 1}\n{"step": 1}\n', ":2 is step 1 after step 1"),
        ('{"step": 1}\nnonsense\n', ":2 is not JSON"),
        ("[1]\n", ":1 is a list"),
        ("{}\n", "whole number as step"),
    ],
)
def test_replay_when_the_file_is_no_recording_says_where(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=problem):
        list(replay(path, RunFile()))


def test_replay_when_there_is_no_file_says_which_to_give(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"give the steps\.jsonl"):
        list(replay(tmp_path / "missing.jsonl", RunFile()))
