"""Published weights: complete, verified, the same for rollout's reader, and published once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import blake3
import pytest
import torch
from safetensors.torch import load_file

from forklight.v1 import types_pb2
from forklight_core.errors import PreconditionError, WeightsError
from forklight_kernels.contract import contract_hash as kernels_contract
from forklight_model.checkpoint import load_model
from forklight_model.config import ModelConfig
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel
from forklight_model.tokenizer import build_character_tokenizer, load_tokenizer
from forklight_trainer.adapters.torch_plain import OptimizerSettings, TorchEngine
from forklight_trainer.publishing.contract import contract_hash
from forklight_trainer.publishing.probe import PROBE_TOKENS, probe_ids
from forklight_trainer.publishing.versions import WeightsStore

ADAM = OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0)


def hash_of(tensor: torch.Tensor) -> str:
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return blake3.blake3(data).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> WeightsStore:
    return WeightsStore(
        folder=tmp_path / "weights",
        run_id="test-run",
        tokenizer=build_character_tokenizer(),
        dtype="float32",
        contract="c0",
    )


def test_publish_when_read_back_is_what_the_engine_holds(
    store: WeightsStore, make_model: Callable[[int], HybridModel]
) -> None:
    model = make_model(0)
    reference = store.publish(TorchEngine(model, ADAM), version=3, step=7)
    path = Path(reference.manifest)
    assert path.is_absolute()
    assert path.parent.name == "v00000003"
    assert reference.manifest_id == "b3:" + blake3.blake3(path.read_bytes()).hexdigest()
    manifest = json.loads(path.read_bytes())
    assert (manifest["version"], manifest["step"], manifest["kind"], manifest["contract"]) == (
        3,
        7,
        "full",
        "c0",
    )
    assert ModelConfig.from_published(manifest["config"]) == model.config
    tensors: dict[str, torch.Tensor] = {}
    for file in manifest["files"]:
        tensors |= load_file(path.parent / file["file"])
    assert tensors.keys() == manifest["tensors"].keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensors[name], tensor)
        assert manifest["tensors"][name]["shape"] == list(tensor.shape)
        assert manifest["tensors"][name]["dtype"] == "float32"
        assert manifest["tensors"][name]["blake3"] == hash_of(tensor)
    loaded = load_model(path.parent)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert load_tokenizer(path.parent).vocab_size == 103


def test_publish_when_done_twice_keeps_the_very_files(
    store: WeightsStore, make_model: Callable[[int], HybridModel]
) -> None:
    first = store.publish(TorchEngine(make_model(0), ADAM), version=0, step=0)
    again = store.publish(TorchEngine(make_model(0), ADAM), version=0, step=0)
    assert first == again
    other = store.publish(TorchEngine(make_model(1), ADAM), version=0, step=0)
    assert other.manifest_id != first.manifest_id


def test_publish_when_a_shard_was_torn_writes_it_again(
    store: WeightsStore, make_model: Callable[[int], HybridModel]
) -> None:
    engine = TorchEngine(make_model(0), ADAM)
    reference = store.publish(engine, version=0, step=0)
    shard = next(Path(reference.manifest).parent.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="torn"):
        store.reference(0)
    store.publish(engine, version=0, step=0)
    assert store.reference(0).version == 0


def test_publish_when_versions_pile_up_keeps_four(
    store: WeightsStore, make_model: Callable[[int], HybridModel]
) -> None:
    engine = TorchEngine(make_model(0), ADAM)
    for version in range(6):
        reference = store.publish(engine, version=version, step=version)
        assert json.loads(Path(reference.manifest).read_bytes())["kind"] == "full"  # fp32 changes everywhere
    assert sorted(path.name for path in store.folder.iterdir()) == [f"v{v:08d}" for v in (2, 3, 4, 5)]


def test_publish_when_bf16_writes_what_rollout_computes_with(
    store: WeightsStore, make_model: Callable[[int], HybridModel]
) -> None:
    model = make_model(0)
    reference = store.publish(TorchEngine(model, ADAM, dtype=torch.bfloat16), version=0, step=0)
    manifest = json.loads(Path(reference.manifest).read_bytes())
    assert {entry["dtype"] for entry in manifest["tensors"].values()} == {"bfloat16"}


def test_manifest_when_written_names_the_kernels_contract(
    store: WeightsStore, make_model: Callable[[int], HybridModel]
) -> None:
    reference = store.publish(TorchEngine(make_model(0), ADAM), version=0, step=0)
    assert json.loads(Path(reference.manifest).read_bytes())["kernels"] == kernels_contract()


def test_reference_when_published_under_another_contract_is_refused(
    store: WeightsStore, make_model: Callable[[int], HybridModel]
) -> None:
    engine = TorchEngine(make_model(0), ADAM)
    store.publish(engine, version=0, step=0)
    newer = dataclasses.replace(store, contract="c1")
    with pytest.raises(WeightsError, match="contract 'c0', this trainer computes under 'c1'"):
        newer.reference(0)
    newer.publish(engine, version=0, step=0)
    assert newer.reference(0).version == 0


def test_contract_when_the_kernels_round_otherwise_is_another(
    make_model: Callable[[int], HybridModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_model(0).config
    before = contract_hash(config, "bfloat16")
    monkeypatch.setattr(ModelConfig, "numerics", property(lambda config: "other"))
    assert contract_hash(config, "bfloat16") != before


def test_contract_when_dtype_or_shape_differs_is_another(make_model: Callable[[int], HybridModel]) -> None:
    config = make_model(0).config
    assert contract_hash(config, "float32") == contract_hash(config, "float32")
    assert contract_hash(config, "float32") != contract_hash(config, "bfloat16")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_probe_when_scored_with_the_files_again_has_the_same_bits(
    store: WeightsStore, make_model: Callable[[int], HybridModel], dtype: torch.dtype
) -> None:
    """bf16 tells master weights from published ones: the probe speaks of those on disk."""
    reference = store.publish(TorchEngine(make_model(0), ADAM, dtype=dtype), version=0, step=0)
    path = Path(reference.manifest)
    probe = json.loads(path.read_bytes())["probe"]
    ids = torch.tensor(probe["ids"])
    with torch.no_grad():
        ends = torch.tensor([0, len(ids)], dtype=torch.int32)
        model = load_model(path.parent, dtype)
        expected = token_logprobs(model, ids, ends).logprobs_T[1:]
        master = token_logprobs(make_model(0), ids, ends).logprobs_T[1:]
    found = torch.tensor(probe["logprobs"], dtype=torch.float32)
    assert len(ids) == PROBE_TOKENS
    assert found.view(torch.int32).equal(expected.view(torch.int32))
    assert found.equal(master) == (dtype == torch.float32)
    assert found.tolist() == probe["logprobs"]  # written in full: fp32 loses nothing of it


def test_probe_when_published_says_where_it_was_computed(
    store: WeightsStore, make_model: Callable[[int], HybridModel]
) -> None:
    mode = types_pb2.NumericMode(is_parity=True, contract="k0", device="GPU X", torch="2.0", triton="3.0")
    reference = dataclasses.replace(store, mode=mode).publish(
        TorchEngine(make_model(0), ADAM), version=0, step=0
    )
    assert json.loads(Path(reference.manifest).read_bytes())["probe"]["mode"] == {
        "is_parity": True,
        "contract": "k0",
        "device": "GPU X",
        "torch": "2.0",
        "triton": "3.0",
    }


def test_probe_when_the_folder_has_none_is_published_again(
    store: WeightsStore, make_model: Callable[[int], HybridModel]
) -> None:
    engine = TorchEngine(make_model(0), ADAM)
    path = Path(store.publish(engine, version=0, step=0).manifest)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"probe": None}))
    store.publish(engine, version=0, step=0)
    assert json.loads(path.read_text())["probe"]["ids"] == probe_ids(103)


def test_probe_when_weights_are_not_finite_stops_the_publication(
    store: WeightsStore, make_model: Callable[[int], HybridModel]
) -> None:
    model = make_model(0)
    with torch.no_grad():
        model.lm_head.weight[5].fill_(torch.nan)
    with pytest.raises(PreconditionError, match="not finite"):
        store.publish(TorchEngine(model, ADAM), version=0, step=0)
    assert store.list_versions() == []


def test_probe_tokens_are_fixed_and_spread_over_the_vocabulary() -> None:
    ids = probe_ids(200_064)
    assert ids[:3] == [102_560, 84_561, 1_031]
    assert max(ids) > 190_000 and min(ids) < 10_000 and len(set(ids)) > 315
