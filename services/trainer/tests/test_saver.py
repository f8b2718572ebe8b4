"""Checkpoints beside the next step: what may overlap, what must wait, and that no error is silent."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from forklight.v1 import buffer_pb2, types_pb2
from forklight_core import blobs as core_blobs
from forklight_core.errors import BusyError, CheckpointError, PreconditionError
from forklight_trainer.adapters.memory import MemoryBuffer, MemoryConnection
from forklight_trainer.adapters.torch_plain import TorchEngine
from forklight_trainer.app import run
from forklight_trainer.background import Background
from forklight_trainer.checkpoints.manifest import verify_checkpoint
from forklight_trainer.checkpoints.store import CheckpointStore
from forklight_trainer.settings import TrainerSettings

Maker = Any
DEADLINE_S = 20.0


@pytest.fixture
def make_run(
    tmp_path: Path, maker: Maker, write_run_file: Callable[..., Path]
) -> Callable[..., TrainerSettings]:
    """Settings of a run in its own folder, with the maker's blobs."""

    def make(name: str = "run", **options: Any) -> TrainerSettings:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        core_blobs._MEMORY[str(folder)] = maker.blobs
        return TrainerSettings(
            run_file=write_run_file(folder, **options),
            run_folder=folder,
            run_id="test-run",
            blobs_url=f"memory://{folder}",
            buffer_address="unused",
            device="cpu",
            lease_wait_s=0.05,
        )

    return make


class WatchfulConnection(MemoryConnection):
    """Looks at the disk whenever the trainer says something."""

    def __init__(self, buffer: MemoryBuffer, folder: Path, per_version: int) -> None:
        super().__init__(buffer)
        self._ledger, self._checkpoints, self._per_version = (
            buffer.ledger,
            folder / "checkpoints",
            per_version,
        )
        self.said: list[str] = []

    def commit_steps(
        self, records: Sequence[types_pb2.CommitRecord], **told: Any
    ) -> buffer_pb2.CommitStepsReply:
        verify_checkpoint(self._checkpoints / f"step-{records[-1].step:08d}")
        self.said.append(f"commit {records[-1].step}")
        return super().commit_steps(records, **told)

    def announce_version(self, weights: types_pb2.WeightsRef) -> int:
        step = weights.version * self._per_version
        assert step == 0 or step in self._ledger.values(), "announced before it was committed"
        self.said.append(f"announce {weights.version}")
        return super().announce_version(weights)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_versions_are_announced_only_when_their_checkpoint_is_durable_and_committed(
    make_run: Callable[..., TrainerSettings], maker: Maker, asynchronous: bool
) -> None:
    settings = make_run(checkpoints={"asynchronous": asynchronous})
    connection = WatchfulConnection(MemoryBuffer(maker.batch), settings.run_folder, per_version=2)
    run(settings, threading.Event(), buffer=connection)
    assert connection.said == [
        *("announce 0", "commit 1", "commit 2", "announce 1", "commit 3", "commit 4", "announce 2"),
        *("commit 5", "commit 6", "announce 3"),
    ]


@pytest.mark.parametrize("every", [1, 3])
def test_an_update_waits_while_more_steps_than_allowed_are_at_risk(
    make_run: Callable[..., TrainerSettings], maker: Maker, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    """The disk is slower than the steps; every update looks at what is on it."""
    settings = make_run(checkpoint_every_steps=every, updates_per_version=16, checkpoints={"keep_last": 9})
    at_risk: list[int] = []
    write, update = CheckpointStore.write, TorchEngine.update

    def write_slowly(self: CheckpointStore, *rest: Any) -> Path:
        threading.Event().wait(0.3)
        return write(self, *rest)

    def look_and_update(self: TorchEngine, **options: Any) -> float:
        durable = max(
            (int(path.name[5:]) for path in settings.run_folder.glob("checkpoints/step-*")), default=0
        )
        at_risk.append(len(at_risk) + 1 - durable)
        return update(self, **options)

    monkeypatch.setattr(CheckpointStore, "write", write_slowly)
    monkeypatch.setattr(TorchEngine, "update", look_and_update)
    run(settings, threading.Event(), buffer=MemoryBuffer(maker.batch).connect())
    assert at_risk == ([1] * 6 if every == 1 else [1, 2, 3, 1, 2, 3])


def test_the_next_step_is_computed_while_a_checkpoint_is_written(
    make_run: Callable[..., TrainerSettings], maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_run()
    computed = threading.Event()
    write, accumulate = CheckpointStore.write, TorchEngine.accumulate
    rounds: list[int] = []

    def write_after_it(self: CheckpointStore, *rest: Any) -> Path:
        assert len(rounds) > 1 or computed.wait(DEADLINE_S), "the loop waited for the disk"
        return write(self, *rest)

    def accumulate_and_say(self: TorchEngine, *rest: Any) -> Any:
        outcomes = accumulate(self, *rest)
        rounds.append(len(outcomes))
        if len(rounds) == 2:
            computed.set()
        return outcomes

    monkeypatch.setattr(CheckpointStore, "write", write_after_it)
    monkeypatch.setattr(TorchEngine, "accumulate", accumulate_and_say)
    buffer = MemoryBuffer(maker.batch)
    run(settings, threading.Event(), buffer=buffer.connect())
    assert len(buffer.ledger) == 6 * 12


def test_a_checkpoint_that_cannot_be_written_ends_the_trainer_and_nothing_is_announced(
    make_run: Callable[..., TrainerSettings], maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, buffer = make_run(), MemoryBuffer(maker.batch)

    def fail(self: CheckpointStore, *rest: Any) -> Path:
        raise CheckpointError("a rank is gone")

    monkeypatch.setattr(CheckpointStore, "write", fail)
    with pytest.raises(CheckpointError, match="a rank is gone"):
        run(settings, threading.Event(), buffer=buffer.connect())
    assert buffer.ledger == {}
    assert [weights.version for weights in buffer.announced] == [0]
    assert len((settings.run_folder / "steps.jsonl").read_text().splitlines()) == 1


def test_a_full_disk_is_waited_for(
    make_run: Callable[..., TrainerSettings],
    maker: Maker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings, buffer = make_run(), MemoryBuffer(maker.batch)
    write, failures = CheckpointStore.write, [BusyError("no room"), BusyError("no room")]

    def write_or_fail(self: CheckpointStore, *rest: Any) -> Path:
        if failures:
            raise failures.pop()
        return write(self, *rest)

    monkeypatch.setattr(CheckpointStore, "write", write_or_fail)
    with caplog.at_level(logging.WARNING):
        run(settings, threading.Event(), buffer=buffer.connect())
    assert len(buffer.ledger) == 6 * 12
    assert "waiting" in caplog.text and not failures


def test_a_commit_that_is_refused_ends_the_trainer_and_is_not_taken_for_a_bad_batch(
    make_run: Callable[..., TrainerSettings], maker: Maker
) -> None:
    class Refusing(MemoryConnection):
        def commit_steps(self, records: Any, **told: Any) -> buffer_pb2.CommitStepsReply:
            raise PreconditionError("two trainers learned the same step")

    settings, buffer = make_run(), MemoryBuffer(maker.batch)
    with pytest.raises(PreconditionError, match="two trainers"):
        run(settings, threading.Event(), buffer=Refusing(buffer))
    assert buffer.phase == buffer_pb2.RUN_PHASE_RUNNING
    steps = [
        json.loads(line)["step"] for line in (settings.run_folder / "steps.jsonl").read_text().splitlines()
    ]
    assert steps == [1]


def test_checkpoints_of_the_announced_version_stay_when_few_are_kept(
    make_run: Callable[..., TrainerSettings], maker: Maker
) -> None:
    settings = make_run(updates_per_version=4, checkpoints={"keep_last": 1, "asynchronous": False})
    seen: dict[int, list[str]] = {}

    def make_batch(step: int) -> types_pb2.Batch:
        seen[step] = sorted(path.name for path in (settings.run_folder / "checkpoints").glob("step-*"))
        batch: types_pb2.Batch = maker.batch(step)
        return batch

    run(settings, threading.Event(), buffer=MemoryBuffer(make_batch).connect())
    assert seen[4] == ["step-00000003"]
    assert seen[6] == ["step-00000004", "step-00000005"]


def test_background_when_a_job_fails_drops_the_rest_and_keeps_saying_why() -> None:
    background, done = Background("test"), list[int]()

    def fail() -> None:
        raise ValueError("first")

    background.submit("a", lambda: done.append(1))
    background.submit("b", fail)
    with suppress(ValueError):  # it may have failed already
        background.submit("c", lambda: done.append(2))
    end_s = time.monotonic() + DEADLINE_S
    while background.doing is not None and time.monotonic() < end_s:
        background.wait(0.1)
    for _ in range(2):
        with pytest.raises(ValueError, match="first"):
            background.check()
    background.close()
    assert done == [1]
