"""Checkpoints: whole or not there, verified before use, and the exact continuation of what was saved."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from forklight.v1 import types_pb2
from forklight_core.errors import BusyError, CheckpointError
from forklight_core.runfile import RunFile
from forklight_model.checkpoint import load_model
from forklight_model.model import HybridModel
from forklight_model.tokenizer import build_character_tokenizer, load_tokenizer
from forklight_trainer.adapters.torch_plain import OptimizerSettings, TorchEngine
from forklight_trainer.batches.fetch import fetch_batch
from forklight_trainer.checkpoints.store import CheckpointState, CheckpointStore, verify_checkpoint
from forklight_trainer.durable import staged_folder
from forklight_trainer.steps.step import PolicyState, step_settings, train_step

Maker = Any
ADAM = OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0)
SETTINGS = step_settings(RunFile.model_validate({"trainer": {"learning_rate": 1e-3}}))
RECORD = types_pb2.CommitRecord(lineage="l1", step=2, batch_id="test-run/b2", sample_ids=["a", "b"])


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    run_file = tmp_path / "run.toml"
    run_file.write_text("[run]\n")
    return CheckpointStore(
        folder=tmp_path / "checkpoints", run_file=run_file, tokenizer=build_character_tokenizer(), num_kept=2
    )


def state(step: int, run_id: str = "test-run") -> CheckpointState:
    return CheckpointState(run_id=run_id, lineage="l1", step=step, version=step // 2)


def learn(engine: TorchEngine, maker: Maker, step: int) -> None:
    batch = fetch_batch(maker.batch(step), maker.blobs, "test-run").batch
    assert batch is not None
    policy = PolicyState(
        version=1, is_published=False, contract=batch.samples[0].contract, find_version=lambda version: None
    )
    train_step(engine, batch, SETTINGS, policy)


def test_checkpoint_when_restored_continues_bit_for_bit(
    store: CheckpointStore, make_model: Callable[[int], HybridModel], maker: Maker
) -> None:
    straight, restored_model = make_model(0), make_model(5)
    engine = TorchEngine(straight, ADAM)
    learn(engine, maker, 1)
    learn(engine, maker, 2)
    store.save(engine, state(2), [RECORD])
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
    store: CheckpointStore, make_model: Callable[[int], HybridModel]
) -> None:
    model = make_model(0)
    folder = store.save(TorchEngine(model, ADAM), state(1), [])
    assert folder.name == "step-00000001"
    assert {path.name for path in folder.iterdir()} >= {
        "config.json",
        "tokenizer.json",
        "optimizer.safetensors",
        "random.safetensors",
        "state.json",
        "commit.json",
        "run.toml",
        "manifest.json",
    }
    loaded = load_model(folder)
    assert all(torch.equal(loaded.state_dict()[name], t) for name, t in model.state_dict().items())
    assert load_tokenizer(folder).vocab_size == 103
    assert [path.name for path in store.folder.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    "file", ["optimizer.safetensors", "state.json", "commit.json", "manifest.json", "config.json"]
)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_restore_when_newest_is_torn_falls_back_and_says_so(
    store: CheckpointStore,
    make_model: Callable[[int], HybridModel],
    caplog: pytest.LogCaptureFixture,
    file: str,
    damage: str,
) -> None:
    engine = TorchEngine(make_model(0), ADAM)
    store.save(engine, state(1), [])
    newest = store.save(engine, state(2), [])
    damage_file(newest / file, damage)
    with caplog.at_level(logging.ERROR):
        restored = store.restore_latest(TorchEngine(make_model(1), ADAM), "test-run")
    assert restored is not None
    assert restored.state.step == 1
    assert "checkpoint refused" in caplog.text


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


def test_restore_when_every_checkpoint_is_torn_refuses_to_start_over(
    store: CheckpointStore, make_model: Callable[[int], HybridModel]
) -> None:
    folder = store.save(TorchEngine(make_model(0), ADAM), state(1), [])
    damage_file(folder / "optimizer.safetensors", "cut")
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        store.restore_latest(TorchEngine(make_model(0), ADAM), "test-run")


def test_restore_when_checkpoint_is_of_another_run_refuses_it(
    store: CheckpointStore, make_model: Callable[[int], HybridModel]
) -> None:
    engine = TorchEngine(make_model(0), ADAM)
    store.save(engine, state(1, "other-run"), [])
    with pytest.raises(CheckpointError, match="none of the 1"):
        store.restore_latest(engine, "test-run")


def test_restore_when_nothing_was_saved_returns_none(
    store: CheckpointStore, make_model: Callable[[int], HybridModel]
) -> None:
    assert store.restore_latest(TorchEngine(make_model(0), ADAM), "test-run") is None


def test_save_when_repeated_keeps_the_newest_and_sweeps_half_written_ones(
    store: CheckpointStore, make_model: Callable[[int], HybridModel]
) -> None:
    engine = TorchEngine(make_model(0), ADAM)
    for step in (1, 2, 3, 9):
        store.save(engine, state(step), [])
    assert store.list_steps() == [3, 9]
    (store.folder / ".step-00000010.abcd").mkdir()
    store.save(engine, state(4), [])  # after a fallback: what lies beyond is another lineage's
    assert store.list_steps() == [3, 4]
    restored = store.restore_latest(engine, "test-run")
    assert restored is not None
    assert restored.state.step == 4
    assert not list(store.folder.glob(".*"))


def test_staged_folder_when_the_block_fails_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with pytest.raises(BusyError, match="no room to write"), staged_folder(target) as staging:
        staging.mkdir()
        (staging / "half").write_text("half")
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_verify_checkpoint_when_sound_is_silent(
    store: CheckpointStore, make_model: Callable[[int], HybridModel]
) -> None:
    verify_checkpoint(store.save(TorchEngine(make_model(0), ADAM), state(1), []))
