"""Weights by stretches are those of a whole model: drawn, of a published folder, of a checkpoint."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from forklight_core.errors import CheckpointError, InvalidInputError
from forklight_model import mapped_files, stretches
from forklight_model.checkpoint import load_model, parameter_shapes, save_model, weightless_model
from forklight_model.config import ModelConfig
from forklight_model.model import HybridModel
from forklight_model.moe import parameter_of
from forklight_model.parts import FORMAT, StateKey, part_name, stretch_name
from forklight_model.stretches import FreshWeights, HeldWeights, WeightSource, open_weights

CONFIG = ModelConfig(
    vocab_size=41,
    hidden_size=24,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=3,
    num_key_value_heads=1,
    head_dim=8,
    rotary_dim=4,
    num_local_experts=3,
    num_experts_per_tok=2,
    attn_type_list=(0, 1),
    max_position_embeddings=64,
    initializer_range=0.1,
)


def drawn(seed: int = 5) -> HybridModel:
    model = HybridModel(CONFIG, is_initialized=False)
    model.initialize(torch.Generator().manual_seed(seed))
    return model


def flat(model: HybridModel) -> dict[str, Tensor]:
    return {name: weight.detach().flatten() for name, weight in model.named_parameters()}


def cuts(total: int, seed: int) -> Iterator[tuple[int, int]]:
    """Stretches of a parameter in order, some of it left out."""
    chance = torch.Generator().manual_seed(seed)
    at = 0
    while at < total:
        gap, length = (int(torch.randint(0, 90, (), generator=chance)) for _ in range(2))
        start = min(at + gap, total)
        at = min(start + length, total)
        yield start, at - start


def check_same(weights: WeightSource, wanted: dict[str, Tensor]) -> None:
    for name, whole in wanted.items():
        for start, length in cuts(len(whole), len(name)):
            got = weights.read(name, start, length)
            assert torch.equal(got, whole[start : start + length]), (name, start, length)


@pytest.mark.parametrize("at_once", [16, 48, 1 << 22])
def test_fresh_weights_are_those_that_a_model_draws(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(stretches, "DRAWN_AT_ONCE", at_once)
    check_same(FreshWeights(CONFIG, torch.Generator().manual_seed(5)), flat(drawn()))


def test_fresh_weights_of_some_parameters_only_are_the_same() -> None:
    weights, wanted = FreshWeights(CONFIG, torch.Generator().manual_seed(5)), flat(drawn())
    name = "model.layers.1.block_sparse_moe.experts.w2_EID"
    assert torch.equal(weights.read(name, 7, 100), wanted[name][7:107])


def test_fresh_weights_that_are_drawn_already_are_refused() -> None:
    weights = FreshWeights(CONFIG, torch.Generator().manual_seed(5))
    weights.read("lm_head.weight", 0, 10)
    with pytest.raises(InvalidInputError, match="ask in the order of the model's parameters"):
        weights.read("model.norm.weight", 0, 10)
    with pytest.raises(InvalidInputError, match="element 0 of no.such is asked for"):
        FreshWeights(CONFIG, torch.Generator()).read("no.such", 0, 1)


@pytest.mark.parametrize("mapped_bytes", [0, 1 << 26])
def test_weights_of_a_folder_are_those_of_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped_bytes: int
) -> None:
    monkeypatch.setattr(mapped_files, "MAPPED_BYTES", mapped_bytes)
    save_model(drawn(), tmp_path / "folder", max_shard_bytes=3000)
    with open_weights(tmp_path / "folder") as weights:
        check_same(weights, flat(drawn()))


def test_weights_of_a_bf16_folder_are_widened(tmp_path: Path) -> None:
    model = drawn().to(torch.bfloat16)
    save_model(model, tmp_path / "folder")
    with open_weights(tmp_path / "folder") as weights:
        check_same(weights, {name: whole.float() for name, whole in flat(model).items()})


@pytest.mark.parametrize("mapped_bytes", [0, 1 << 26])
def test_weights_of_a_checkpoint_are_those_of_its_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped_bytes: int
) -> None:
    monkeypatch.setattr(mapped_files, "MAPPED_BYTES", mapped_bytes)
    write_checkpoint(tmp_path, flat(drawn()))
    with open_weights(tmp_path) as weights:
        check_same(weights, flat(drawn()))
    loaded = load_model(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in drawn().state_dict().items())


def write_checkpoint(folder: Path, weights: dict[str, Tensor]) -> None:
    (folder / "state").mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG.to_published()))
    shapes = json.dumps({name: list(shape) for name, shape in parameter_shapes(CONFIG).items()})
    for rank in range(2):
        held = {}
        for name, whole in weights.items():
            middle = len(whole) // 3
            start, values = (0, whole[:middle]) if rank else (middle, whole[middle:])
            held[stretch_name(name, StateKey.WEIGHT, start)] = values.clone()
        metadata = {"format": FORMAT, "adam_step": "0", "shapes": shapes}
        save_file(held, folder / "state" / part_name(rank, 2), metadata)


def test_a_folder_that_does_not_fit_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    save_model(drawn(), tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    tensors = load_file(path)
    name = "model.layers.0.block_sparse_moe.experts.1.w2.weight"
    save_file(tensors | {name: torch.zeros(2, 2)}, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"experts.1.w2.weight is \(2, 2\), the config needs"):
        open_weights(tmp_path).__enter__()
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(CheckpointError, match="truncated or corrupt"):
        open_weights(tmp_path).__enter__()


def test_held_weights_are_named_by_their_place_in_the_whole() -> None:
    check_same(HeldWeights(drawn()), flat(drawn()))


def test_a_weightless_model_has_the_names_of_the_published_folder() -> None:
    names = weightless_model(CONFIG).state_dict()
    assert names.keys() == drawn().state_dict().keys()
    assert {parameter_of(name) for name in names} == parameter_shapes(CONFIG).keys()
