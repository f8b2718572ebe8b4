"""Checkpoints: bit-for-bit round trips, published names, and errors that name what is wrong."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from forklight_core.errors import CheckpointError
from forklight_model.checkpoint import (
    INDEX_FILE,
    load_model,
    load_published_tensors,
    published_tensors,
    save_model,
)
from forklight_model.model import HybridModel


def same_bits(first: HybridModel, second: HybridModel) -> bool:
    pairs = zip(published_tensors(first), published_tensors(second), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("max_shard_bytes", [10**9, 50_000])
def test_a_saved_model_comes_back_bit_for_bit(
    model: HybridModel, tmp_path: Path, max_shard_bytes: int
) -> None:
    save_model(model, tmp_path / "saved", max_shard_bytes)
    again = load_model(tmp_path / "saved")
    assert same_bits(model, again) and again.config == model.config
    shards = sorted(tmp_path.glob("saved/*.safetensors"))
    assert (len(shards) == 1) == (max_shard_bytes == 10**9)
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    assert list(tmp_path.iterdir()) == [tmp_path / "saved"]


def test_the_published_checkpoint_round_trips_bit_for_bit(golden_dir: Path, tmp_path: Path) -> None:
    save_model(load_model(golden_dir), tmp_path / "saved", 10**6)
    published = load_file(golden_dir / "model.safetensors")
    index = json.loads((tmp_path / "saved" / INDEX_FILE).read_text())
    assert set(index["weight_map"]) == set(published)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in published.values())
    saved = {}
    for path in tmp_path.glob("saved/*.safetensors"):
        saved |= load_file(path)
    for name, tensor in published.items():
        assert torch.equal(saved[name], tensor), name


def test_saving_again_replaces_weights_and_keeps_other_files(model: HybridModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "saved", 50_000)
    (tmp_path / "saved" / "tokenizer.json").write_text("{}")
    model.initialize()
    save_model(model, tmp_path / "saved")
    assert same_bits(model, load_model(tmp_path / "saved"))
    assert len(list(tmp_path.glob("saved/*.safetensors"))) == 1
    assert (tmp_path / "saved" / "tokenizer.json").read_text() == "{}"
    assert list(tmp_path.iterdir()) == [tmp_path / "saved"]


def test_a_failed_save_leaves_the_old_folder_whole(model: HybridModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "saved")
    broken = HybridModel(model.config)
    broken.to("meta")  # its tensors cannot be written
    with pytest.raises((RuntimeError, NotImplementedError)):
        save_model(broken, tmp_path / "saved")
    assert same_bits(model, load_model(tmp_path / "saved"))
    assert list(tmp_path.iterdir()) == [tmp_path / "saved"]


def test_loading_casts_and_state_dict_loads_like_a_checkpoint(model: HybridModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "saved")
    half = load_model(tmp_path / "saved", torch.bfloat16)
    for (name, got), (_, expected) in zip(published_tensors(half), published_tensors(model), strict=True):
        assert torch.equal(got, expected.bfloat16()), name
    other = HybridModel(model.config)
    other.load_state_dict(model.state_dict())
    assert same_bits(model, other)
    partial = model.state_dict()
    del partial["model.layers.3.block_sparse_moe.experts.1.w3.weight"]
    partial["model.layers.3.block_sparse_moe.experts.9.w3.weight"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match=r"experts\.1\.w3(.|\n)*experts\.9\.w3"):
        other.load_state_dict(partial)


def test_published_tensors_load_in_place_all_or_nothing(model: HybridModel) -> None:
    before = {name: tensor.clone() for name, tensor in published_tensors(model)}
    given = {name: torch.randn_like(tensor) for name, tensor in before.items()}
    wrong = dict(given)
    del wrong["lm_head.weight"]
    wrong["model.norm.weight"] = torch.zeros(3)
    wrong["model.extra"] = torch.zeros(3)
    with pytest.raises(
        CheckpointError, match=r"missing lm_head(.*)unknown model.extra(.*)model.norm.weight is \(3,\)"
    ):
        load_published_tensors(model, wrong)
    assert all(torch.equal(tensor, before[name]) for name, tensor in published_tensors(model))
    address = model.lm_head.weight.data_ptr()
    load_published_tensors(model, given)
    assert all(torch.equal(tensor, given[name]) for name, tensor in published_tensors(model))
    assert model.lm_head.weight.data_ptr() == address


@pytest.mark.parametrize("damage", ["truncated", "garbage", "missing"])
def test_a_damaged_shard_is_named(model: HybridModel, tmp_path: Path, damage: str) -> None:
    save_model(model, tmp_path / "saved", 50_000)
    shard = sorted(tmp_path.glob("saved/*.safetensors"))[1]
    content = shard.read_bytes()
    shard.unlink()
    if damage != "missing":
        shard.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"\xff" * 64)
    with pytest.raises(CheckpointError, match=shard.name):
        load_model(tmp_path / "saved")


def test_a_folder_without_weights_or_with_other_weights_is_refused(
    model: HybridModel, tmp_path: Path
) -> None:
    save_model(model, tmp_path / "saved")
    (tmp_path / "saved" / INDEX_FILE).write_text('{"weight_map": 3}')
    with pytest.raises(CheckpointError, match="weight_map"):
        load_model(tmp_path / "saved")
    (tmp_path / "saved" / INDEX_FILE).unlink()
    with pytest.raises(CheckpointError, match="neither"):
        load_model(tmp_path / "saved")
    tensors = {name: tensor.clone() for name, tensor in published_tensors(model)}
    tensors["lm_head.weight"] = torch.zeros(2, 2)
    save_file(tensors, tmp_path / "saved" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head.weight is \(2, 2\)"):
        load_model(tmp_path / "saved")


def test_a_shard_that_lacks_a_tensor_its_index_promises_is_named(model: HybridModel, tmp_path: Path) -> None:
    save_model(model, tmp_path / "saved")
    (shard,) = tmp_path.glob("saved/*.safetensors")
    tensors = load_file(shard)
    del tensors["model.norm.weight"]
    save_file(tensors, shard)
    with pytest.raises(CheckpointError, match=shard.name):
        load_model(tmp_path / "saved")
