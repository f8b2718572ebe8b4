"""Going back to an older checkpoint in the middle of a run: what buffer, rollout and records see of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from forklight.v1 import buffer_pb2, types_pb2
from forklight_core import blobs as core_blobs
from forklight_core.runfile import load_run_file
from forklight_model.checkpoint import load_model
from forklight_trainer.adapters.memory import MemoryBuffer
from forklight_trainer.app import assemble, run
from forklight_trainer.loop import TrainingLoop
from forklight_trainer.settings import TrainerSettings
from forklight_trainer.status import StatusBoard

Maker = Any
DEADLINE_S = 20.0


class RunThatGoesBack:
    """A run of six steps; when a step is asked for, going back is asked for, once."""

    def __init__(self, settings: TrainerSettings, maker: Maker, *, asked_at: int, to_step: int) -> None:
        self.settings, self._maker, self._asked_at, self._to_step = settings, maker, asked_at, to_step
        self.buffer = MemoryBuffer(self._batch)
        self.stop = threading.Event()
        self.leased: list[int] = []
        parts = assemble(
            settings,
            load_run_file(settings.run_file),
            board=StatusBoard(),
            buffer=self.buffer.connect(),
            stop=self.stop,
        )
        self.loop = TrainingLoop(parts)
        self.checkpoints = parts.checkpoints

    def _batch(self, step: int) -> types_pb2.Batch:
        if not self.leased or self.leased[-1] != step:
            self.leased.append(step)
        if step == self._asked_at and len(self.leased) == step:
            self.loop.request_roll_back(self._to_step, "entropy fell")
        batch: types_pb2.Batch = self._maker.batch(step)
        return batch

    @property
    def curve(self) -> list[dict[str, Any]]:
        return [
            json.loads(line) for line in (self.settings.run_folder / "steps.jsonl").read_text().splitlines()
        ]


@pytest.fixture
def make_run(
    tmp_path: Path, maker: Maker, write_run_file: Callable[..., Path]
) -> Callable[..., RunThatGoesBack]:
    def make(name: str = "run", *, asked_at: int = 99, to_step: int = 0, **options: Any) -> RunThatGoesBack:
        folder = tmp_path / name
        folder.mkdir()
        core_blobs._MEMORY[str(folder)] = maker.blobs
        settings = TrainerSettings(
            run_file=write_run_file(folder, **options),
            run_folder=folder,
            run_id="test-run",
            blobs_url=f"memory://{folder}",
            buffer_address="unused",
            device="cpu",
            lease_wait_s=0.05,
        )
        return RunThatGoesBack(settings, maker, asked_at=asked_at, to_step=to_step)

    return make


def same_numbers(ours: RunThatGoesBack, theirs: RunThatGoesBack) -> bool:
    """Curves without what depends on the clock, and final weights."""
    clock = ("time", "seconds", "tokens_per_s", "parity_version")
    curves = [
        [{k: v for k, v in line.items() if k not in clock} for line in each.curve] for each in (ours, theirs)
    ]
    finals = [load_model(each.settings.run_folder / "final").state_dict() for each in (ours, theirs)]
    return curves[0] == curves[1] and all(torch.equal(finals[0][name], finals[1][name]) for name in finals[0])


def test_a_run_goes_back_learns_the_steps_again_and_announces_the_older_version_to_rollout(
    make_run: Callable[..., RunThatGoesBack],
) -> None:
    straight = make_run("straight")
    straight.loop.run()
    turned = make_run("turned", asked_at=5, to_step=2, checkpoints={"keep_last": 9})
    turned.loop.run()
    assert turned.leased == [1, 2, 3, 4, 5, 3, 4, 5, 6]
    assert [point.step for point in turned.buffer.restores] == [0, 2]
    assert [weights.version for weights in turned.buffer.announced] == [0, 1, 2, 1, 2, 3]
    first, again = turned.buffer.announced[1], turned.buffer.announced[3]
    assert (
        first.manifest_id == again.manifest_id
    )  # the very weights that rollout had: pods find them unchanged
    assert turned.buffer.ledger == straight.buffer.ledger
    assert same_numbers(turned, straight)
    (record,) = turned.checkpoints.roll_backs()
    assert (record.from_step, record.to_step, record.reason, record.is_done) == (5, 2, "entropy fell", True)
    assert turned.checkpoints.list_steps() == [1, 2, 3, 4, 5, 6] and turned.checkpoints.list_left() == []


def test_versions_of_the_line_that_was_left_gate_nothing_on_the_new_one(
    make_run: Callable[..., RunThatGoesBack], maker: Maker
) -> None:
    """Samples that call themselves version 1 may be of the weights that were given up."""
    maker.version = 1
    turned = make_run(asked_at=3, to_step=1, checkpoints={"keep_last": 9})
    turned.loop.run()
    assert [line["parity_version"] for line in turned.curve] == [None] * 6
    assert 1 in turned.loop._at.doubtful and 2 not in turned.loop._at.doubtful


def test_a_run_killed_after_going_back_stays_on_the_new_line(
    make_run: Callable[..., RunThatGoesBack], maker: Maker
) -> None:
    turned = make_run(asked_at=5, to_step=2, checkpoints={"keep_last": 9, "asynchronous": False})
    make_batch = turned.buffer.make_batch

    def die_in_step_four(step: int) -> types_pb2.Batch | None:
        if turned.leased[-1:] == [3] and step == 4 and len(turned.leased) > 5:
            raise KeyboardInterrupt
        return make_batch(step)

    turned.buffer.make_batch = die_in_step_four
    with pytest.raises(KeyboardInterrupt):
        turned.loop.run()
    assert (turned.checkpoints.list_steps(), turned.checkpoints.list_left()) == ([1, 2, 3], [4, 5])
    turned.buffer.make_batch = maker.batch
    run(turned.settings, threading.Event(), buffer=turned.buffer.connect())
    assert [point.step for point in turned.buffer.restores] == [0, 2, 3]
    assert [line["step"] for line in turned.curve] == [1, 2, 3, 4, 5, 6]
    assert set(turned.buffer.ledger.values()) == {1, 2, 3, 4, 5, 6}


def test_a_step_that_no_checkpoint_leads_to_pauses_the_run_with_the_reason(
    make_run: Callable[..., RunThatGoesBack],
) -> None:
    turned = make_run(asked_at=5, to_step=1, checkpoints={"keep_last": 2})
    thread = threading.Thread(target=turned.loop.run, daemon=True)
    thread.start()
    paused = threading.Event()
    for _ in range(int(DEADLINE_S / 0.05)):
        if turned.buffer.phase == buffer_pb2.RUN_PHASE_PAUSED or paused.wait(0.05):
            break
    assert (
        "asked to go back to step 1 (entropy fell), and no sound checkpoint is as old" in turned.buffer.reason
    )
    turned.buffer.phase = buffer_pb2.RUN_PHASE_RUNNING
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert [line["step"] for line in turned.curve] == [1, 2, 3, 4, 5, 6]
    assert turned.checkpoints.roll_backs() == ()
