"""What each process of a spread training step holds: some experts, a slice of a pack, borders of sequences.

Legend: T tokens of a pack, S tokens of a slice, n processes, L layers, K experts a token.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from forklight_core.errors import CheckpointError, ConfigError, InvalidInputError
from forklight_kernels import Residual
from forklight_model.checkpoint import (
    load_model,
    load_published_files,
    load_published_tensors,
    published_tensors,
    save_model,
)
from forklight_model.config import ModelConfig
from forklight_model.model import HybridModel
from forklight_model.parallel import Alone
from forklight_model.parts import FORMAT, StateKey, part_name, stretch_name
from forklight_model.routing import RecordedRouting
from forklight_model.shard import Shard
from forklight_model.spread.experts import Matrices
from forklight_model.spread.pack_slice import PackSlice
from forklight_model.spread.peers import Peers
from forklight_model.spread.sequence import LightningSpread, check_sequence_spread
from forklight_model.spread.states import Borders

LENGTHS = (7, 1, 50, 13)


class Held:
    """The experts of a process whose forward pass nobody runs."""

    def __init__(self, rank: int, size: int) -> None:
        self.shard = Shard(rank=rank, size=size)

    def mix(
        self, x_TD: Tensor, weights_TK: Tensor, experts_TK: Tensor, matrices: Matrices, residual: Residual
    ) -> Tensor:
        raise AssertionError("nobody runs this")


def pack(lengths: tuple[int, ...] = LENGTHS) -> tuple[Tensor, Tensor]:
    return torch.arange(1, 1 + sum(lengths)), torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def slices(size: int, lengths: tuple[int, ...] = LENGTHS) -> list[PackSlice]:
    return [PackSlice.of(*pack(lengths), Shard(rank=rank, size=size)) for rank in range(size)]


@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_slices_side_by_side_are_the_pack(size: int) -> None:
    (ids_T, cu_seqlens), parts = pack(), slices(size)
    total = len(torch.cat([part.input_ids_S for part in parts]))
    assert total % size == 0 and total - len(ids_T) < size
    assert len({len(part.input_ids_S) for part in parts}) == 1
    assert torch.equal(torch.cat([part.input_ids_S[: part.num_own] for part in parts]), ids_T)
    assert sum(part.num_own for part in parts) == len(ids_T)
    for part in parts:
        assert part.cu_seqlens.tolist() == [*cu_seqlens.tolist(), *([total] if total > len(ids_T) else [])]


@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_a_slice_scores_the_tokens_after_its_own_across_its_border(size: int) -> None:
    (ids_T, cu_seqlens), parts = pack(), slices(size)
    firsts = set(cu_seqlens[:-1].tolist())
    places = torch.cat([part.scored_places_S[part.is_scored_S] for part in parts])
    assert places.tolist() == [place for place in range(len(ids_T)) if place not in firsts]
    targets = torch.cat([part.targets_S[part.is_scored_S] for part in parts])
    assert torch.equal(targets, ids_T[places])


def test_a_record_of_routing_is_cut_as_its_tokens_and_padded() -> None:
    num_tokens = sum(LENGTHS)
    record = RecordedRouting(
        experts_LTK=torch.randint(4, (3, num_tokens, 2), dtype=torch.int16),
        weights_LTK=torch.rand(3, num_tokens, 2),
    )
    parts = slices(4)
    cut = [part.slice_routing(record) for part in parts]
    whole = torch.cat([each.experts_LTK for each in cut], dim=1)
    assert whole.shape == (3, 72, 2) and whole.dtype == torch.int16
    assert torch.equal(whole[:, :num_tokens], record.experts_LTK)
    assert whole[:, num_tokens:].tolist() == [[[0, 1]]] * 3
    weights = torch.cat([each.weights_LTK for each in cut], dim=1)
    assert torch.equal(weights[:, :num_tokens], record.weights_LTK)
    assert bool((weights[:, num_tokens:] == 0.5).all())


def test_a_pack_without_tokens_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="without tokens"):
        PackSlice.of(*pack((0,)), Shard(rank=0, size=2))


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("lengths", [LENGTHS, (3, 61), (64,), (16, 16, 32), (0, 5, 0, 59), (1,) * 9])
def test_a_state_crosses_exactly_the_borders_that_its_sequence_crosses(
    lengths: tuple[int, ...], size: int
) -> None:
    parts = slices(size, lengths)
    offsets, width = parts[0].cu_seqlens.tolist(), len(parts[0].input_ids_S)
    sequence_of = [max(n for n, first in enumerate(offsets) if first <= t) for t in range(width * size)]
    crossings = set()
    for rank, part in enumerate(parts):
        borders = Borders.of(part)
        own = sequence_of[rank * width : (rank + 1) * width]
        is_open = rank > 0 and own[0] == sequence_of[rank * width - 1]
        assert borders.num_open == (own.count(own[0]) if is_open else 0)
        assert borders.cu_seqlens.tolist() == [
            0,
            *(n for n in range(1, width) if own[n] != own[n - 1]),
            width,
        ]
        before = [r for r in range(rank) if is_open and sequence_of[(r + 1) * width - 1] == own[0]]
        assert list(borders.before) == before
        crossings |= {(other, rank) for other in before}
    for rank, part in enumerate(parts):
        borders = Borders.of(part)
        assert {(rank, other) for other in borders.after} == {each for each in crossings if each[0] == rank}
        assert borders.is_needed == bool(crossings)


@pytest.mark.parametrize(
    ("changes", "size", "lightning", "message"),
    [
        ({}, 3, LightningSpread.HEADS, "num_attention_heads = 4"),
        ({}, 3, LightningSpread.STATES, "num_attention_heads = 4"),  # softmax layers need heads
        ({"attn_type_list": (0,) * 8}, 3, LightningSpread.HEADS, "num_attention_heads = 4"),
        (
            {"num_attention_heads": 12, "num_key_value_heads": 3},
            2,
            LightningSpread.HEADS,
            "key_value_heads = 3",
        ),
    ],
)
def test_heads_that_cannot_be_shared_are_refused(
    config: ModelConfig, changes: dict[str, object], size: int, lightning: LightningSpread, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_sequence_spread(replace(config, **changes), size, lightning)  # type: ignore[arg-type]


def test_heads_that_can_be_shared_are_not_refused(config: ModelConfig) -> None:
    for size in (1, 2, 4):  # two key heads
        check_sequence_spread(config, size)
    check_sequence_spread(replace(config, attn_type_list=(0,) * 8), 3, LightningSpread.STATES)


@pytest.mark.parametrize("size", [2, 4])
def test_processes_together_name_every_published_tensor_once_but_for_what_all_hold(
    config: ModelConfig, size: int
) -> None:
    whole = HybridModel(config)
    parts = [HybridModel(config, False, experts=Held(rank, size)) for rank in range(size)]
    load_published_tensors(parts[0], dict(published_tensors(whole)))
    names = [set(part.state_dict()) for part in parts]
    assert set().union(*names) == set(whole.state_dict())
    for name in whole.state_dict():
        assert sum(name in held for held in names) == (1 if ".experts." in name else size), name
    for held, part in zip(names, parts, strict=True):
        assert held | part.names_elsewhere == set(whole.state_dict()) and not held & part.names_elsewhere
    for name, tensor in published_tensors(parts[0]):
        assert torch.equal(tensor, whole.state_dict()[name]), name


def test_a_process_reads_its_own_experts_bytes_alone(config: ModelConfig, tmp_path: Path) -> None:
    whole = HybridModel(config)
    folder = tmp_path / "saved"
    save_model(whole, folder, max_shard_bytes=1)  # a file a tensor
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    for name, file in index.items():
        if ".experts." in name and int(name.split(".experts.")[1].split(".")[0]) < 2:
            (folder / file).write_bytes(b"torn")
    part = load_model(folder, torch.bfloat16, experts=Held(1, 2))
    for name, tensor in published_tensors(part):
        assert torch.equal(tensor, whole.state_dict()[name].bfloat16()), name
    with pytest.raises(CheckpointError, match="truncated or corrupt"):
        load_model(folder, experts=Held(0, 2))


def test_every_way_of_loading_gives_the_same_experts(config: ModelConfig, tmp_path: Path) -> None:
    whole = HybridModel(config)
    save_model(whole, tmp_path / "saved", max_shard_bytes=50_000)
    models = [load_model(tmp_path / "saved", experts=Held(1, 4))]
    models += [HybridModel(config, False, experts=Held(1, 4)) for _ in range(2)]
    load_published_tensors(models[1], dict(published_tensors(whole)))
    load_published_files(models[2], sorted(tmp_path.glob("saved/*.safetensors")))
    for named in zip(*(published_tensors(model) for model in models), strict=True):
        assert torch.equal(named[0][1], named[1][1]) and torch.equal(named[0][1], named[2][1]), named[0][0]
    tensors = dict(published_tensors(whole))
    with pytest.raises(CheckpointError, match=r"unknown other"):
        load_published_tensors(models[1], tensors | {"other": tensors["lm_head.weight"]})
    own = "model.layers.0.block_sparse_moe.experts.1.w1.weight"
    with pytest.raises(CheckpointError, match=f"missing {own}"):
        load_published_tensors(models[1], {name: each for name, each in tensors.items() if name != own})


def test_state_that_processes_write_of_their_experts_is_one_models(
    config: ModelConfig, tmp_path: Path
) -> None:
    whole = HybridModel(config)
    (tmp_path / "state").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(config.to_published()))
    for rank in range(2):
        part = HybridModel(config, False, experts=Held(rank, 2))
        load_published_tensors(part, dict(published_tensors(whole)))
        tensors, shapes = {}, {}
        for name, weight in part.named_parameters():
            shapes[name], start = part.whole_place(name)
            if rank == 0 or ".experts." in name:
                tensors[stretch_name(name, StateKey.WEIGHT, start)] = weight.detach().flatten().clone()
        said = {"format": FORMAT, "adam_step": "0", "shapes": json.dumps(shapes)}
        save_file(tensors, tmp_path / "state" / part_name(rank, 2), said)
    loaded = [load_model(tmp_path), load_model(tmp_path, experts=Held(3, 4))]
    for model in loaded:
        for name, tensor in published_tensors(model):
            assert torch.equal(tensor, whole.state_dict()[name]), name


def test_fresh_spread_experts_are_those_of_one_process(config: ModelConfig) -> None:
    models = [HybridModel(config, False), *(HybridModel(config, False, experts=Held(r, 2)) for r in range(2))]
    for model in models:
        model.initialize(torch.Generator().manual_seed(5))
    truth = models[0].state_dict()
    for model in models[1:]:
        assert all(torch.equal(tensor, truth[name]) for name, tensor in model.state_dict().items())


def test_a_model_with_some_experts_is_not_saved_nor_cut(config: ModelConfig, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="some of its experts"):
        save_model(HybridModel(config, False, experts=Held(1, 2)), tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    with pytest.raises(ConfigError, match="num_local_experts = 4 cannot be cut into 3"):
        HybridModel(config, False, experts=Held(0, 3))
    gather, even = Alone(), replace(config, vocab_size=104)
    gather.shard = Shard(rank=0, size=2)
    with pytest.raises(ConfigError, match="not both"):
        HybridModel(even, False, shard=gather.shard, gather=gather, experts=Held(0, 2))


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Peers]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield Peers()
    dist.destroy_process_group()


def test_one_process_keeps_what_it_has_and_sends_nothing(alone: Peers) -> None:
    rows = torch.arange(6.0).view(3, 2)
    assert torch.equal(alone.swap(rows), rows) and torch.equal(alone.swap_rows(rows, [3], [3]), rows)
    assert torch.equal(alone.collect(rows), rows[None])
    assert (alone.traffic.sent_bytes, alone.traffic.num_messages) == (0, 0)


def test_peers_need_a_process_group() -> None:
    with pytest.raises(ConfigError, match="init_process_group"):
        Peers()
