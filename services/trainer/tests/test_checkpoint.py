"""Checkpoints: whole or not there, verified before use, and the exact continuation of what was saved."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from forklight.v1 import types_pb2
from forklight_core.errors import BusyError, CheckpointError
from forklight_core.runfile import RunFile
from forklight_model.checkpoint import load_model
from forklight_model.model import HybridModel
from forklight_model.tokenizer import build_character_tokenizer, load_tokenizer
from forklight_trainer.adapters.torch_plain import OptimizerSettings, TorchEngine
from forklight_trainer.batches.fetch import fetch_batch
from forklight_trainer.checkpoints.contents import CheckpointState
from forklight_trainer.checkpoints.manifest import verify_checkpoint, write_manifest
from forklight_trainer.checkpoints.retention import Retention
from forklight_trainer.checkpoints.roll_backs import RollBack, write_roll_backs
from forklight_trainer.checkpoints.store import CheckpointStore
from forklight_trainer.durable import staged_folder
from forklight_trainer.steps.step import PolicyState, step_settings, train_step

Maker = Any
MakeModel = Callable[[int], HybridModel]
ADAM = OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0)
SETTINGS = step_settings(RunFile.model_validate({"trainer": {"learning_rate": 1e-3}}))
RECORD = types_pb2.CommitRecord(lineage="l1", step=2, batch_id="test-run/b2", sample_ids=["a", "b"])
PART = "state/part-00000-of-00001.safetensors"


@pytest.fixture
def store(tmp_path: Path, make_model: MakeModel) -> CheckpointStore:
    run_file = tmp_path / "run.toml"
    run_file.write_text("[run]\n")
    return CheckpointStore(
        folder=tmp_path / "checkpoints",
        run_file=run_file,
        config=make_model(0).config,
        tokenizer=build_character_tokenizer(),
        retention=Retention(keep_last=2),
    )


def state(step: int, run_id: str = "test-run") -> CheckpointState:
    return CheckpointState(
        run_id=run_id, lineage="l1", step=step, version=step // 2, steering={"window": 40}, schedule={"at": 1}
    )


def save(
    store: CheckpointStore, engine: TorchEngine, where: CheckpointState, *, needed: Collection[int] = ()
) -> Path:
    snapshot = engine.snapshot()
    try:
        folder = store.write(snapshot, where, [RECORD])
    finally:
        snapshot.release()
    store.prune(needed=needed)
    return folder


def learn(engine: TorchEngine, maker: Maker, step: int) -> None:
    batch = fetch_batch(maker.batch(step), maker.blobs, "test-run").batch
    assert batch is not None
    policy = PolicyState(
        version=1, is_published=False, contract=batch.samples[0].contract, find_version=lambda version: None
    )
    train_step(engine, batch, SETTINGS, policy)


def test_checkpoint_when_restored_continues_bit_for_bit(
    store: CheckpointStore, make_model: MakeModel, maker: Maker
) -> None:
    straight, restored_model = make_model(0), make_model(5)
    engine = TorchEngine(straight, ADAM)
    learn(engine, maker, 1)
    learn(engine, maker, 2)
    save(store, engine, state(2))
    drawn = torch.rand(3)
    learn(engine, maker, 3)
    other = TorchEngine(restored_model, ADAM)
    restored = store.restore_latest(other, "test-run")
    assert restored is not None
    assert restored.state == state(2)
    assert restored.commits == (RECORD,)
    assert torch.equal(torch.rand(3), drawn)
    learn(other, maker, 3)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(restored_model.state_dict()[name], tensor), name


def test_checkpoint_when_saved_is_a_model_folder_with_everything_beside_it(
    store: CheckpointStore, make_model: MakeModel
) -> None:
    model = make_model(0)
    folder = save(store, TorchEngine(model, ADAM), state(1))
    assert folder.name == "step-00000001"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} >= {
        "config.json",
        "tokenizer.json",
        PART,
        "state/part-00000-of-00001.json",
        "state.json",
        "commit.json",
        "run.toml",
        "manifest.json",
    }
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in folder.rglob("*"))
    loaded = load_model(folder)
    assert all(torch.equal(loaded.state_dict()[name], t) for name, t in model.state_dict().items())
    assert load_tokenizer(folder).vocab_size == 103
    assert [path.name for path in store.folder.iterdir()] == [folder.name]
    verify_checkpoint(folder)


def damage_file(path: Path, damage: str) -> None:
    data = bytearray(path.read_bytes())
    match damage:
        case "remove":
            path.unlink()
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "flip":
            data[len(data) // 2] ^= 0x01
            path.write_bytes(data)


@pytest.mark.parametrize("file", [PART, "state.json", "commit.json", "manifest.json", "config.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_restore_when_newest_is_torn_falls_back_says_so_and_leaves_it_behind(
    store: CheckpointStore, make_model: MakeModel, caplog: pytest.LogCaptureFixture, file: str, damage: str
) -> None:
    engine = TorchEngine(make_model(0), ADAM)
    save(store, engine, state(1))
    damage_file(save(store, engine, state(2)) / file, damage)
    with caplog.at_level(logging.ERROR):
        restored = store.restore_latest(TorchEngine(make_model(1), ADAM), "test-run")
    assert restored is not None
    assert restored.state.step == 1
    assert "checkpoint refused" in caplog.text
    assert (store.list_steps(), store.list_left()) == ([1], [2])


def test_restore_when_a_part_of_another_checkpoint_was_put_in_refuses_it(
    store: CheckpointStore, make_model: MakeModel
) -> None:
    engine = TorchEngine(make_model(0), ADAM)
    folder = save(store, engine, state(1))
    shutil.copyfile(folder / PART, folder / "state" / "part-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="which its manifest.json does not name"):
        verify_checkpoint(folder)


def test_restore_when_the_manifest_is_of_another_run_refuses_it(
    store: CheckpointStore, make_model: MakeModel, tmp_path: Path
) -> None:
    ours = save(store, TorchEngine(make_model(0), ADAM), state(1))
    elsewhere = replace(store, folder=tmp_path / "elsewhere")
    theirs = save(elsewhere, TorchEngine(make_model(1), ADAM), state(1, "other-run"))
    shutil.copyfile(theirs / "manifest.json", ours / "manifest.json")
    with pytest.raises(CheckpointError, match="is torn"):
        verify_checkpoint(ours)
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        store.restore_latest(TorchEngine(make_model(0), ADAM), "test-run")


def test_restore_when_every_checkpoint_is_torn_refuses_to_start_over(
    store: CheckpointStore, make_model: MakeModel
) -> None:
    damage_file(save(store, TorchEngine(make_model(0), ADAM), state(1)) / PART, "cut")
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        store.restore_latest(TorchEngine(make_model(0), ADAM), "test-run")


def weights_of(engine: TorchEngine) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in engine._master.parameters()]


@pytest.mark.parametrize("trouble", ["run", "architecture", "newer release", "rank gone"])
def test_restore_when_a_sound_checkpoint_does_not_fit_names_it_before_the_engine_is_touched(
    store: CheckpointStore, make_model: MakeModel, trouble: str
) -> None:
    """An older checkpoint would not fit either: none is tried, and none is left behind."""
    saved, engine = TorchEngine(make_model(0), ADAM), TorchEngine(make_model(1), ADAM)
    save(store, saved, state(1))
    match trouble:
        case "run":
            folder, said = save(store, saved, state(2, "other-run")), "step 2 of run 'other-run'"
        case "architecture":
            other = replace(store, config=replace(store.config, rope_theta=5e5))
            folder, said = (
                save(other, saved, state(2)),
                "another architecture: rope_theta is 500000.0, the run's",
            )
        case "newer release":
            folder, said = save(store, saved, state(2)), "has mood .schema version 2., which this build"
            content = json.loads((folder / "state.json").read_text()) | {"mood": "good"}
            (folder / "state.json").write_text(json.dumps(content))
            sign_again(folder)
        case _:
            folder, said = save(store, saved, state(2)), "lacks part-00000-of-00002.safetensors"
            for suffix in (".safetensors", ".json"):
                part = (folder / PART).with_suffix(suffix)
                part.rename(part.with_name("part-00001-of-00002" + suffix))
            sign_again(folder)
    before = weights_of(engine)
    with pytest.raises(CheckpointError, match=said):
        store.restore_latest(engine, "test-run")
    assert all(torch.equal(one, other) for one, other in zip(before, weights_of(engine), strict=True))
    assert store.list_steps() == [1, 2]


def sign_again(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    write_manifest(folder)


def test_restore_when_nothing_was_saved_returns_none(store: CheckpointStore, make_model: MakeModel) -> None:
    assert store.restore_latest(TorchEngine(make_model(0), ADAM), "test-run") is None


def test_prune_keeps_the_newest_and_what_is_needed_and_restore_sweeps_half_written_ones(
    store: CheckpointStore, make_model: MakeModel
) -> None:
    engine = TorchEngine(make_model(0), ADAM)
    for step in (1, 2, 3, 9):
        save(store, engine, state(step), needed=[2])
    assert store.list_steps() == [2, 3, 9]
    save(store, engine, state(10))
    assert store.list_steps() == [9, 10]
    (store.folder / ".step-00000011.abcd").mkdir()
    restored = store.restore_latest(engine, "test-run")
    assert restored is not None
    assert restored.state.step == 10
    assert not list(store.folder.glob(".*"))


def went_back(step: int) -> RollBack:
    return RollBack(from_step=9, to_step=step, reason="entropy fell", at=1.0)


def test_going_back_leaves_newer_checkpoints_behind_until_the_new_line_has_passed_them(
    store: CheckpointStore, make_model: MakeModel
) -> None:
    engine = TorchEngine(make_model(0), ADAM)
    for step in (7, 8, 9):
        save(store, engine, state(step), needed=[7])
    store.go_back(went_back(7))
    assert (store.list_steps(), store.list_left()) == ([7], [8, 9])
    restored = store.restore_latest(engine, "test-run")
    assert restored is not None and restored.state.step == 7
    save(store, engine, state(8))
    assert (store.list_steps(), store.list_left()) == ([7, 8], [9])
    save(store, engine, state(10))
    assert (store.list_steps(), store.list_left()) == ([8, 10], [])
    assert store.roll_backs() == (went_back(7).done(),)


def test_going_back_when_a_crash_came_in_between_is_finished_at_the_next_start(
    store: CheckpointStore, make_model: MakeModel
) -> None:
    engine = TorchEngine(make_model(0), ADAM)
    for step in (7, 8, 9):
        save(store, engine, state(step), needed=[7])
    (store.folder / "step-00000009").rename(store.folder / "left-00000009")
    write_roll_backs(store.folder, [went_back(7)])
    restored = store.restore_latest(engine, "test-run")
    assert restored is not None and restored.state.step == 7
    assert (store.list_steps(), store.list_left()) == ([7], [8, 9])
    save(store, engine, state(8))
    restored = store.restore_latest(engine, "test-run")
    assert restored is not None and restored.state.step == 8


@given(
    steps=st.sets(st.integers(1, 200), min_size=1),
    keep_last=st.integers(1, 4),
    every=st.integers(0, 40),
    needed=st.lists(st.integers(0, 220), max_size=3),
)
def test_retention_keeps_the_last_the_milestones_and_what_is_needed(
    steps: set[int], keep_last: int, every: int, needed: list[int]
) -> None:
    """Pruned after each checkpoint, as a run does."""
    retention = Retention(keep_last=keep_last, keep_every_steps=every)
    held: list[int] = []
    for step in sorted(steps):
        held.append(step)
        held = sorted(retention.choose(held, needed=needed))
    assert set(sorted(steps)[-keep_last:]) <= set(held)
    assert {max(s for s in steps if s <= wanted) for wanted in needed if wanted >= min(steps)} <= set(held)
    if every:
        periods = {step // every for step in steps} - {0}
        assert {min(step for step in steps if step // every == period) for period in periods} <= set(held)
    else:
        assert len(held) <= keep_last + len(needed)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_staged_folder_when_the_disk_is_full_leaves_nothing_and_may_be_tried_again(
    tmp_path: Path, error: Exception
) -> None:
    target = tmp_path / "folder"
    with pytest.raises(BusyError, match="no room to write"), staged_folder(target) as staging:
        staging.mkdir()
        (staging / "half").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_write_when_it_fails_can_be_repeated_from_the_same_snapshot(
    store: CheckpointStore, make_model: MakeModel
) -> None:
    engine = TorchEngine(make_model(0), ADAM)
    snapshot = engine.snapshot()
    broken = replace(store, run_file=store.folder / "gone.toml")
    with pytest.raises(FileNotFoundError):
        broken.write(snapshot, state(1), [])
    assert store.list_steps() == [] and not list(store.folder.glob(".*"))
    verify_checkpoint(store.write(snapshot, state(1), []))
