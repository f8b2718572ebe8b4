"""The whole loop steered: the window moves and the buffer hears of it, alarms pause a run or send it back."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forklight.v1 import buffer_pb2, types_pb2
from forklight_core import blobs as core_blobs
from forklight_core.runfile import dump_run_file, load_run_file
from forklight_core.runfile.schema import RunFile
from forklight_trainer.adapters.memory import MemoryBuffer
from forklight_trainer.app import run
from forklight_trainer.settings import TrainerSettings

Maker = Any
Write = Callable[..., Path]
RESPONSE = 23  # tokens of the longest response that the maker makes
EAGER = {
    "windows": [RESPONSE, 30, 60],
    "near": 0.5,
    "converged": 1.0,
    "patience": 4,
    "min_steps": 4,
    "back_patience": 100,
}


@pytest.fixture
def make_run(tmp_path: Path, maker: Maker, write_run_file: Write) -> Callable[..., TrainerSettings]:
    """Settings of a run in its own folder, with other sections of the run file."""

    def make(name: str = "run", *, steps: int = 6, **sections: dict[str, object]) -> TrainerSettings:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        core_blobs._MEMORY[f"{tmp_path}/{name}"] = maker.blobs
        path = write_run_file(folder, steps=steps)
        content = load_run_file(path).model_dump()
        path.write_text(dump_run_file(RunFile.model_validate(content | sections)))
        return TrainerSettings(
            run_file=path,
            run_folder=folder,
            run_id="test-run",
            blobs_url=f"memory://{tmp_path}/{name}",
            buffer_address="unused",
            device="cpu",
            lease_wait_s=0.05,
        )

    return make


def curve(settings: TrainerSettings) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (settings.run_folder / "steps.jsonl").read_text().splitlines()]


def stands(buffer: MemoryBuffer) -> list[tuple[str, int]]:
    """Kind and step of the events that still count."""
    return [(event.kind, event.step) for event in buffer.events if not event.undone]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def test_run_when_its_window_moves_tells_the_buffer_with_the_commit(
    make_run: Callable[..., TrainerSettings], maker: Maker
) -> None:
    settings, buffer = make_run(length=EAGER, steps=10), MemoryBuffer(maker.batch)
    run(settings, threading.Event(), buffer=buffer.connect())
    assert [record["window"] for record in curve(settings)] == [RESPONSE] * 4 + [30] * 4 + [60] * 2
    assert buffer.restores[0].window_tokens == RESPONSE
    assert buffer.window_tokens == 60
    assert stands(buffer) == [("window_advanced", 4), ("window_advanced", 8)]
    assert buffer.events[0].severity == types_pb2.SEVERITY_INFO
    assert (buffer.events[0].version, buffer.events[0].at > 1e9) == (2, True)
    assert json.loads(buffer.events[0].evidence_json)["window_after"] == 30


@pytest.mark.parametrize("at_step", [2, 4, 7])
def test_run_when_killed_and_resumed_has_the_same_windows_and_tells_each_event_once(
    make_run: Callable[..., TrainerSettings], maker: Maker, at_step: int
) -> None:
    settings, buffer = make_run(length=EAGER, steps=10), MemoryBuffer(maker.batch)

    def batch_or_stop(step: int) -> types_pb2.Batch | None:
        if step == at_step + 1 and len(buffer.restores) == 1:
            stop.set()
            return None
        batch: types_pb2.Batch = maker.batch(step)
        return batch

    buffer.make_batch, stop = batch_or_stop, threading.Event()
    run(settings, stop, buffer=buffer.connect())
    assert len(curve(settings)) == at_step
    run(settings, threading.Event(), buffer=buffer.connect())
    assert [record["window"] for record in curve(settings)] == [RESPONSE] * 4 + [30] * 4 + [60] * 2
    assert stands(buffer) == [("window_advanced", 4), ("window_advanced", 8)]
    assert buffer.restores[1].window_tokens == (RESPONSE if at_step < 4 else 30)


def test_run_when_an_alarm_pauses_waits_with_the_reason_and_goes_on_when_told(
    make_run: Callable[..., TrainerSettings], maker: Maker
) -> None:
    collapse = {"entropy": {"action": "pause", "floor": 50.0, "patience": 3}}
    settings, buffer = make_run(collapse=collapse), MemoryBuffer(maker.batch)
    thread = threading.Thread(
        target=run, args=(settings, threading.Event()), kwargs={"buffer": buffer.connect()}, daemon=True
    )
    thread.start()
    until(lambda: buffer.phase == buffer_pb2.RUN_PHASE_PAUSED)
    assert "collapse.entropy since step 1" in buffer.reason
    assert len(curve(settings)) == 3
    until(lambda: stands(buffer) == [("alert", 3)])
    assert buffer.events[0].severity == types_pb2.SEVERITY_ALERT
    buffer.phase = buffer_pb2.RUN_PHASE_RUNNING
    thread.join(30)
    assert len(curve(settings)) == 6
    assert stands(buffer) == [("alert", 3)]


@pytest.mark.parametrize("action", ["pause", "roll_back"])
def test_run_when_an_alarm_rings_at_the_last_step_ends_all_the_same(
    make_run: Callable[..., TrainerSettings], maker: Maker, action: str
) -> None:
    """There is no checkpoint of step 0 to go back to, and nothing left to pause."""
    settings = make_run(
        steps=3,
        collapse={"entropy": {"action": action, "floor": 50.0, "patience": 3}, "roll_back_steps": 2},
        checkpoints={"keep_last": 10},
    )
    buffer = MemoryBuffer(maker.batch)
    run(settings, threading.Event(), buffer=buffer.connect())
    assert (settings.run_folder / "final").is_dir()
    assert buffer.phase == buffer_pb2.RUN_PHASE_RUNNING
    assert stands(buffer) == [("alert", 3)]


def test_run_when_no_checkpoint_is_old_enough_pauses_and_says_so(
    make_run: Callable[..., TrainerSettings], maker: Maker
) -> None:
    collapse = {"entropy": {"action": "roll_back", "floor": 50.0, "patience": 3}, "roll_back_steps": 2}
    settings = make_run(collapse=collapse, checkpoints={"keep_last": 10})
    buffer, stop = MemoryBuffer(maker.batch), threading.Event()
    thread = threading.Thread(
        target=run, args=(settings, stop), kwargs={"buffer": buffer.connect()}, daemon=True
    )
    thread.start()
    until(lambda: buffer.phase == buffer_pb2.RUN_PHASE_PAUSED)
    stop.set()
    thread.join(30)
    assert "no sound checkpoint is as old" in buffer.reason
    assert [point.step for point in buffer.restores] == [0]


class Same:
    """In place of chance: always the longest, always the same token."""

    def integers(self, low: int, high: int, size: int | None = None, dtype: Any = None) -> Any:
        return high - 1 if size is None else np.full(size, low, dtype)


def looping_from(maker: Maker, first_step: int) -> Callable[[int], types_pb2.Batch]:
    """Batches whose responses go round in circles from a step on, whatever is done about it."""

    def batch_of(step: int) -> types_pb2.Batch:
        plain = type(maker).arrays
        maker.arrays = lambda sample_id, chance: plain(
            maker, sample_id, chance if step < first_step else Same()
        )
        batch: types_pb2.Batch = maker.batch(step)
        return batch

    return batch_of


def test_run_when_an_alarm_sends_it_back_does_so_twice_and_then_pauses(
    make_run: Callable[..., TrainerSettings], maker: Maker
) -> None:
    """From step 7 on responses loop: it rings at 8 and goes back to 5, twice; the third time it pauses."""
    settings = make_run(
        steps=20,
        collapse={"repetition": {"action": "roll_back", "patience": 2}, "roll_back_steps": 2},
        checkpoints={"keep_last": 4},
    )
    buffer = MemoryBuffer(looping_from(maker, 7))
    stop = threading.Event()
    thread = threading.Thread(
        target=run, args=(settings, stop), kwargs={"buffer": buffer.connect()}, daemon=True
    )
    thread.start()
    until(lambda: buffer.phase == buffer_pb2.RUN_PHASE_PAUSED)
    stop.set()
    thread.join(30)
    assert [point.step for point in buffer.restores] == [0, 5, 5]
    assert "rolled back 2 times already and it came back" in buffer.reason
    assert [record["step"] for record in curve(settings)] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert stands(buffer) == [("rolled_back", 5), ("rolled_back", 5), ("alert", 8)]
    assert [event.kind for event in buffer.events if event.undone] == ["alert", "alert"]
