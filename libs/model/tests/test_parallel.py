"""One model over several processes gives the numbers of one process.

A CPU's matrix routines may sum otherwise for another number of columns. So fp64 is compared at its own
rounding, and bits with products that add one number after another, as a GPU's do: torch's and Triton's.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from forklight_core.errors import CheckpointError, ConfigError, InvalidInputError
from forklight_kernels.backend import has_triton
from forklight_model.checkpoint import (
    load_model,
    load_published_files,
    load_published_tensors,
    published_tensors,
    save_model,
)
from forklight_model.config import ModelConfig
from forklight_model.model import HybridModel
from forklight_model.parallel import Alone, DistributedGather
from forklight_model.same_weights import weights_digest
from forklight_model.shard import WHOLE, Shard

RANK = Path(__file__).parent / "parallel_rank.py"
WORLD = 4
DEADLINE_S = 120


EXACT = {
    "name": "exact",
    "dtype": "float64",
    "device": "cpu",
    "products": "torch",
    "sizes": [2, 4],
    "lengths": [70, 1, 9],
    "num_steps": 3,
}
ORDERED = EXACT | {"name": "ordered", "dtype": "float32", "products": "ordered"}
INTERPRETED = ORDERED | {
    "name": "interpreted",
    "products": "interpreted",
    "sizes": [2],
    "lengths": [1],
    "num_steps": 0,
}


class Silent(Alone):
    """Stands for a part whose forward pass nobody runs."""

    def __init__(self, rank: int, size: int) -> None:
        self.shard = Shard(rank=rank, size=size)


@pytest.fixture(scope="module")
def cut_config() -> ModelConfig:
    return ModelConfig(
        vocab_size=104,
        hidden_size=64,
        intermediate_size=128,  # parts that fill vector registers: silu of a rest may be another function
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=16,
        rotary_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        attn_type_list=(0, 1, 0),
        max_position_embeddings=512,
        initializer_range=0.2,
    )


@pytest.fixture(scope="module")
def results(cut_config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what four processes computed."""
    folder = tmp_path_factory.mktemp("parallel")
    torch.manual_seed(0)
    jobs = [EXACT, ORDERED]
    two_layers = replace(cut_config, num_hidden_layers=2, attn_type_list=(0, 1), num_local_experts=2)
    configs = [cut_config, cut_config, two_layers]
    if has_triton() and not torch.cuda.is_available():
        jobs.append(INTERPRETED)
    for job, config in zip(jobs, configs, strict=False):
        save_model(HybridModel(config), folder / str(job["name"]))
    (folder / "jobs.json").write_text(json.dumps(jobs))
    run_processes(folder, WORLD)
    return folder


def run_processes(folder: Path, world: int) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    processes = []
    for rank in range(world):
        command = [sys.executable, str(RANK), str(folder), str(rank), str(world)]
        with (folder / f"{rank}.log").open("w") as log:
            processes.append(subprocess.Popen(command, env=environment, stderr=log))
    try:
        codes = [process.wait(DEADLINE_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert not any(codes), "\n".join((folder / f"{rank}.log").read_text() for rank in range(world))


def computed(folder: Path, name: str, size: int) -> list[dict[str, Any]]:
    """By each process; of one that works alone, its own."""
    paths = sorted(folder.glob(f"{name}-{size}-*.pt"))
    assert len(paths) == size
    return [torch.load(path) for path in paths]


def numbers(result: dict[str, Any]) -> list[Tensor]:
    return [*result["logits"], *(result[name] for name in ("logprobs", "entropy") if name in result)]


@pytest.mark.parametrize("size", [2, 4])
def test_parts_give_the_whole_models_numbers(results: Path, size: int) -> None:
    (whole,) = computed(results, "exact", 1)
    for part in computed(results, "exact", size):
        for got, expected in zip(numbers(part), numbers(whole), strict=True):
            assert got.shape == expected.shape
            torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("size", [2, 4])
def test_parts_give_the_whole_models_bits(results: Path, size: int) -> None:
    assert_equal_bits(results, "ordered", size)


@pytest.mark.skipif(not has_triton() or torch.cuda.is_available(), reason="needs Triton's interpreter")
def test_parts_give_the_whole_models_bits_with_a_gpus_kernels(results: Path) -> None:
    assert_equal_bits(results, "interpreted", 2)


def assert_equal_bits(results: Path, name: str, size: int) -> None:
    (whole,) = computed(results, name, 1)
    for part in computed(results, name, size):
        for got, expected in zip(numbers(part), numbers(whole), strict=True):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("size", [2, 4])
def test_every_process_is_told_when_one_holds_other_weights(results: Path, size: int) -> None:
    for part in computed(results, "exact", size):
        digests = [sentence.split()[3] for sentence in part["told"].split(": ")[1].split(";")[0].split(", ")]
        assert len(digests) == size and len(set(digests[:-1])) == 1 and digests[-1] != digests[0]


@pytest.mark.parametrize("size", [2, 4])
def test_parts_side_by_side_are_the_checkpoint(cut_config: ModelConfig, tmp_path: Path, size: int) -> None:
    whole = HybridModel(cut_config)
    save_model(whole, tmp_path / "saved", max_shard_bytes=50_000)
    parts = [
        load_model(tmp_path / "saved", shard=Shard(rank=rank, size=size), gather=Silent(rank, size))
        for rank in range(size)
    ]
    states = [dict(published_tensors(part)) for part in parts]
    for name, tensor in published_tensors(whole):
        pieces = [state[name] for state in states]
        dims = [dim for dim in range(tensor.dim()) if pieces[0].shape[dim] != tensor.shape[dim]]
        if "norm" in name or name.endswith("moe.gate.weight"):
            assert all(torch.equal(piece, tensor) for piece in pieces), name
        else:
            assert dims == [1 if "embed" in name else 0], name
            assert torch.equal(torch.cat(pieces, dims[0]), tensor), name
    held = sum(parameter.numel() for parameter in parts[0].parameters())
    assert held < 1.05 * sum(parameter.numel() for parameter in whole.parameters()) / size
    slopes = [torch.cat([part.model.layers[0].self_attn.slopes_H for part in parts])]
    assert torch.equal(slopes[0], whole.model.layers[0].self_attn.slopes_H)


def test_every_way_of_loading_gives_the_same_part(cut_config: ModelConfig, tmp_path: Path) -> None:
    whole, gather = HybridModel(cut_config), Silent(1, 2)
    save_model(whole, tmp_path / "saved", max_shard_bytes=50_000)
    models = [load_model(tmp_path / "saved", torch.bfloat16, shard=gather.shard, gather=gather)]
    for _ in range(2):
        part = HybridModel(cut_config, is_initialized=False, shard=gather.shard, gather=gather)
        models.append(part.to(torch.bfloat16))
    load_published_tensors(models[1], dict(published_tensors(whole)))
    load_published_files(models[2], sorted(tmp_path.glob("saved/*.safetensors")))
    for named in zip(*(published_tensors(model) for model in models), strict=True):
        assert torch.equal(named[0][1], named[1][1]) and torch.equal(named[0][1], named[2][1]), named[0][0]
    assert models[0].model.layers[0].self_attn.slopes_H.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in models[0].parameters())


def test_files_that_do_not_fit_change_nothing(cut_config: ModelConfig, tmp_path: Path) -> None:
    whole, gather = HybridModel(cut_config), Silent(0, 2)
    tensors = {name: tensor.clone() for name, tensor in published_tensors(whole)}
    part = HybridModel(cut_config, is_initialized=False, shard=gather.shard, gather=gather)
    load_published_tensors(part, tensors)
    before = {name: tensor.clone() for name, tensor in published_tensors(part)}
    head = tensors.pop("lm_head.weight")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, tmp_path / "a.safetensors")
    wrong = {
        "a part of a tensor": ({"lm_head.weight": head[:52]}, r"lm_head.weight is \(52, 64\)"),
        "a tensor twice": (
            {"lm_head.weight": head, "model.norm.weight": tensors["model.norm.weight"]},
            "in two files model.norm",
        ),
        "no head": ({"other": head}, "missing lm_head(.*)unknown other"),
    }
    for given, message in wrong.values():
        save_file(given, tmp_path / "b.safetensors")
        with pytest.raises(CheckpointError, match=message):
            load_published_files(part, [tmp_path / "a.safetensors", tmp_path / "b.safetensors"])
    with pytest.raises(CheckpointError, match=r"lm_head.weight is \(52, 64\), expected \(104, 64\)"):
        load_published_tensors(part, tensors | {"lm_head.weight": head[:52]})
    assert all(torch.equal(tensor, before[name]) for name, tensor in published_tensors(part))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_key_value_heads": 2}, "num_key_value_heads = 2 cannot be cut into 4 equal parts"),
        ({"num_attention_heads": 6, "num_key_value_heads": 2}, "num_attention_heads = 6"),
        ({"vocab_size": 103}, "vocab_size = 103"),
        ({"intermediate_size": 30}, "intermediate_size = 30"),
        ({"hidden_size": 66}, "hidden_size = 66"),
    ],
)
def test_a_model_that_does_not_divide_is_refused(
    cut_config: ModelConfig, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        HybridModel(replace(cut_config, **changes), False, shard=Shard(rank=0, size=4), gather=Silent(0, 4))


def test_a_part_needs_its_own_gather_and_given_weights(cut_config: ModelConfig, tmp_path: Path) -> None:
    shard = Shard(rank=1, size=2)
    with pytest.raises(ConfigError, match="given none"):
        HybridModel(cut_config, False, shard=shard)
    with pytest.raises(ConfigError, match="one of part 0 of 2"):
        HybridModel(cut_config, False, shard=shard, gather=Silent(0, 2))
    with pytest.raises(InvalidInputError, match="cannot be drawn"):
        HybridModel(cut_config, shard=shard, gather=Silent(1, 2))
    part = HybridModel(cut_config, False, shard=shard, gather=Silent(1, 2))
    with pytest.raises(InvalidInputError, match="part 1 of 2"):
        save_model(part, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    with pytest.raises(ConfigError, match="rank 2 of 2"):
        Shard(rank=2, size=2)


def test_a_gather_is_of_its_process_and_has_no_gradient(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="init_process_group"):
        DistributedGather(WHOLE)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with pytest.raises(ConfigError, match="process 0 of 1 in its group, but was given part 1 of 2"):
            DistributedGather(Shard(rank=1, size=2))
        gather, row = DistributedGather(WHOLE), torch.arange(6.0).view(2, 3)
        assert torch.equal(gather.gather_columns(row), row)
        assert all(torch.equal(got, row) for got in gather.gather_pair(row, row))
        assert gather.gather_columns(row[:0]).shape == (0, 3)
        with pytest.raises(InvalidInputError, match="no gradient"):
            gather.gather_columns(row.requires_grad_())
    finally:
        dist.destroy_process_group()


def test_the_digest_changes_with_any_router_or_norm(cut_config: ModelConfig) -> None:
    model = HybridModel(cut_config).requires_grad_(False)
    digests = {weights_digest(model)}
    gate = model.model.layers[1].block_sparse_moe.gate.weight
    gate[3, 5] = torch.nextafter(gate[3, 5], torch.tensor(9.0))
    digests.add(weights_digest(model))
    gate[[0, 1]] = gate[[1, 0]]
    digests.add(weights_digest(model))
    assert len(digests) == 3
    assert weights_digest(model) in digests
