"""The whole loop against the memory buffer: order of events, resuming, pausing, fencing, stopping."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from forklight.v1 import buffer_pb2, types_pb2
from forklight_core import blobs as core_blobs
from forklight_core.errors import FencedError, UnavailableError
from forklight_model.checkpoint import load_model
from forklight_trainer import patience
from forklight_trainer.adapters.memory import MemoryBuffer, MemoryConnection
from forklight_trainer.app import run
from forklight_trainer.settings import TrainerSettings

Maker = Any
Write = Callable[..., Path]
WAITING = {"asynchronous": False}


def settings_of(folder: Path, run_file: Path, blobs_name: str) -> TrainerSettings:
    return TrainerSettings(
        run_file=run_file,
        run_folder=folder,
        run_id="test-run",
        blobs_url=f"memory://{blobs_name}",
        buffer_address="unused",
        device="cpu",
        lease_wait_s=0.05,
    )


@pytest.fixture
def make_run(tmp_path: Path, maker: Maker, write_run_file: Write) -> Callable[..., TrainerSettings]:
    """Settings of a run in its own folder, with the maker's blobs."""

    def make(name: str = "run", **trainer: Any) -> TrainerSettings:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        store_name = f"{tmp_path}/{name}"
        core_blobs._MEMORY[store_name] = maker.blobs
        return settings_of(folder, write_run_file(folder, **trainer), store_name)

    return make


def curve(settings: TrainerSettings) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (settings.run_folder / "steps.jsonl").read_text().splitlines()]


def numbers(record: dict[str, Any]) -> dict[str, Any]:
    """A step's figures without those that depend on the clock."""
    return {name: value for name, value in record.items() if name not in ("time", "seconds", "tokens_per_s")}


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def in_thread(
    settings: TrainerSettings, buffer: MemoryConnection
) -> tuple[threading.Thread, threading.Event]:
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(settings, stop), kwargs={"buffer": buffer}, daemon=True)
    thread.start()
    return thread, stop


def test_run_when_nothing_happens_learns_every_step_commits_and_finishes(
    make_run: Callable[..., TrainerSettings], maker: Maker
) -> None:
    settings, buffer = make_run(checkpoints=WAITING), MemoryBuffer(maker.batch)
    run(settings, threading.Event(), buffer=buffer.connect())
    records = curve(settings)
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert [record["version"] for record in records] == [0, 1, 1, 2, 2, 3]
    assert [weights.version for weights in buffer.announced] == [0, 1, 2, 3]
    assert [record["parity_version"] for record in records] == [0] * 6
    assert min(record["correlation"] for record in records) > 0.9999
    assert set(records[0]["seconds"]) >= {"lease", "fetch", "train", "checkpoint"}
    assert set(records[2]["seconds"]) >= {"lease", "fetch", "train", "checkpoint", "publish"}
    expected = {
        s.trajectory.envelope.sample_id: step
        for step in range(1, 7)
        for g in maker.batch(step).groups
        for s in g.samples
    }
    assert buffer.ledger == expected
    final = load_model(settings.run_folder / "final").state_dict()
    last = load_model(settings.run_folder / "weights" / "v00000003").state_dict()
    assert all(torch.equal(final[name], tensor) for name, tensor in last.items())


@pytest.mark.parametrize("every", [1, 3])
def test_run_when_killed_and_resumed_has_the_same_curve_bit_for_bit(
    make_run: Callable[..., TrainerSettings], maker: Maker, every: int
) -> None:
    often = {"checkpoint_every_steps": every, "updates_per_version": 3}
    straight = make_run("straight", **often)
    run(straight, threading.Event(), buffer=MemoryBuffer(maker.batch).connect())
    broken = make_run("broken", checkpoints=WAITING, **often)
    buffer = MemoryBuffer(maker.batch)
    with pytest.raises(KeyboardInterrupt):
        run(broken, threading.Event(), buffer=DyingConnection(buffer, dies_at=5))
    assert max(buffer.ledger.values()) == (4 if every == 1 else 3)
    run(broken, threading.Event(), buffer=buffer.connect())
    assert buffer.restores[-1].step == (4 if every == 1 else 3)
    assert [numbers(record) for record in curve(broken)] == [numbers(record) for record in curve(straight)]
    ours, theirs = (load_model(s.run_folder / "final").state_dict() for s in (broken, straight))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert len(buffer.ledger) == 6 * 12


class DyingConnection(MemoryConnection):
    """Dies like a killed process when a step is asked for."""

    def __init__(self, buffer: MemoryBuffer, dies_at: int) -> None:
        super().__init__(buffer)
        self._dies_at = dies_at

    def lease_batch(self, step: int, wait_s: float) -> buffer_pb2.LeaseBatchReply:
        if step == self._dies_at:
            raise KeyboardInterrupt
        return super().lease_batch(step, wait_s)


class DeafConnection(MemoryConnection):
    """Commits get lost: the checkpoint is written, and the process dies before the buffer hears of it."""

    def commit_steps(self, records: Any, **told: Any) -> buffer_pb2.CommitStepsReply:
        raise KeyboardInterrupt


def test_run_when_killed_between_checkpoint_and_commit_recovers_the_commit(
    make_run: Callable[..., TrainerSettings], maker: Maker
) -> None:
    settings, buffer = make_run(), MemoryBuffer(maker.batch)
    with pytest.raises(KeyboardInterrupt):
        run(settings, threading.Event(), buffer=DeafConnection(buffer))
    assert buffer.ledger == {}
    run(settings, threading.Event(), buffer=buffer.connect())
    point = buffer.restores[-1]
    assert (point.step, [record.step for record in point.commits]) == (1, [1])
    assert set(buffer.ledger.values()) == {1, 2, 3, 4, 5, 6}
    assert [record["step"] for record in curve(settings)] == [1, 2, 3, 4, 5, 6]


def test_run_when_a_batch_is_spoiled_pauses_with_the_reason_and_goes_on_when_told(
    make_run: Callable[..., TrainerSettings], maker: Maker
) -> None:
    settings = make_run()
    spoiled = True

    def make_batch(step: int) -> types_pb2.Batch:
        batch: types_pb2.Batch = maker.batch(step)
        if spoiled and step == 3:
            batch.groups[0].samples[0].reward = float("nan")
        return batch

    buffer = MemoryBuffer(make_batch)
    thread, _ = in_thread(settings, buffer.connect())
    wait_until(lambda: buffer.phase == buffer_pb2.RUN_PHASE_PAUSED)
    assert buffer.reason.startswith("trainer at step 3: group test-run/g")
    assert max(buffer.ledger.values()) == 2
    spoiled = False
    buffer.phase = buffer_pb2.RUN_PHASE_RUNNING
    thread.join(20)
    assert not thread.is_alive()
    assert set(buffer.ledger.values()) == {1, 2, 3, 4, 5, 6}


def test_run_when_rollout_disagrees_pauses_before_the_first_update(
    make_run: Callable[..., TrainerSettings], maker: Maker, make_model: Callable[[int], Any]
) -> None:
    settings = make_run()
    maker.model = make_model(9)
    buffer = MemoryBuffer(maker.batch)
    thread, stop = in_thread(settings, buffer.connect())
    wait_until(lambda: buffer.phase == buffer_pb2.RUN_PHASE_PAUSED)
    assert "trainer and rollout disagree" in buffer.reason
    stop.set()
    thread.join(20)
    assert buffer.ledger == {}
    assert not (settings.run_folder / "checkpoints").exists()


def test_run_when_a_blob_is_lost_reports_the_sample_and_asks_again(
    make_run: Callable[..., TrainerSettings], maker: Maker
) -> None:
    settings = make_run()
    lost = maker.batch(2).groups[1].samples[0].trajectory

    def make_batch(step: int) -> types_pb2.Batch:
        batch: types_pb2.Batch = maker.batch(step)
        maker.blobs.delete(lost.payload.id)
        if lost.envelope.sample_id in buffer.lost and step == 2:
            del batch.groups[1].samples[0]
        return batch

    buffer = MemoryBuffer(make_batch)
    run(settings, threading.Event(), buffer=buffer.connect())
    assert list(buffer.lost) == [lost.envelope.sample_id]
    assert lost.payload.id in buffer.lost[lost.envelope.sample_id]
    assert lost.envelope.sample_id not in buffer.ledger
    assert len(buffer.ledger) == 6 * 12 - 1


def test_run_when_a_newer_trainer_takes_over_is_fenced(
    make_run: Callable[..., TrainerSettings], maker: Maker
) -> None:
    settings = make_run(checkpoints=WAITING)

    def make_batch(step: int) -> types_pb2.Batch:
        if step == 3:
            buffer.epoch += 1
        batch: types_pb2.Batch = maker.batch(step)
        return batch

    buffer = MemoryBuffer(make_batch)
    with pytest.raises(FencedError, match="a newer trainer took over"):
        run(settings, threading.Event(), buffer=buffer.connect())
    assert max(buffer.ledger.values()) == 2


def test_run_when_told_to_stop_finishes_the_step_and_leaves_it_durable(
    make_run: Callable[..., TrainerSettings], maker: Maker
) -> None:
    settings = make_run(checkpoint_every_steps=6, updates_per_version=6)
    stop = threading.Event()

    def make_batch(step: int) -> types_pb2.Batch:
        if step == 2:
            stop.set()
        batch: types_pb2.Batch = maker.batch(step)
        return batch

    buffer = MemoryBuffer(make_batch)
    run(settings, stop, buffer=buffer.connect())
    assert set(buffer.ledger.values()) == {1, 2}
    assert [path.name for path in (settings.run_folder / "checkpoints").iterdir()] == ["step-00000002"]
    assert not (settings.run_folder / "final").exists()


class FlakyConnection(MemoryConnection):
    """Every call fails a few times first."""

    def __init__(self, buffer: MemoryBuffer) -> None:
        super().__init__(buffer)
        self.num_failures = 0

    def commit_steps(self, records: Any, **told: Any) -> buffer_pb2.CommitStepsReply:
        self._fail_at_first()
        return super().commit_steps(records, **told)

    def lease_batch(self, step: int, wait_s: float) -> buffer_pb2.LeaseBatchReply:
        self._fail_at_first()
        return super().lease_batch(step, wait_s)

    def _fail_at_first(self) -> None:
        self.num_failures += 1
        if self.num_failures % 2:
            raise UnavailableError("nobody answers")


def test_run_when_the_buffer_comes_and_goes_loses_nothing(
    make_run: Callable[..., TrainerSettings], maker: Maker
) -> None:
    settings, buffer = make_run(), MemoryBuffer(maker.batch)
    connection = FlakyConnection(buffer)
    run(settings, threading.Event(), buffer=connection)
    assert connection.num_failures == 24
    assert set(buffer.ledger.values()) == {1, 2, 3, 4, 5, 6}


def test_run_when_stopped_without_a_buffer_leaves_the_commit_in_the_checkpoint(
    make_run: Callable[..., TrainerSettings], maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "STOPPING_S", 0.1)
    settings, stop = make_run(), threading.Event()

    class Gone(MemoryConnection):
        def commit_steps(self, records: Any, **told: Any) -> buffer_pb2.CommitStepsReply:
            stop.set()
            raise UnavailableError("nobody answers")

    buffer = MemoryBuffer(maker.batch)
    run(settings, stop, buffer=Gone(buffer))
    assert buffer.ledger == {}
    commit = json.loads((settings.run_folder / "checkpoints/step-00000001/commit.json").read_text())
    assert [record["step"] for record in commit["records"]] == [1]
    assert len(commit["records"][0]["sample_ids"]) == 12


def test_run_when_the_run_is_finished_elsewhere_exports_and_returns(
    make_run: Callable[..., TrainerSettings], maker: Maker
) -> None:
    settings, buffer = make_run(), MemoryBuffer(maker.batch)
    buffer.phase = buffer_pb2.RUN_PHASE_FINISHED
    run(settings, threading.Event(), buffer=buffer.connect())
    assert (settings.run_folder / "final" / "config.json").exists()
    assert buffer.ledger == {}
