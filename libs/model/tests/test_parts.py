"""Training state as flat stretches: read back whatever the cut, refused unless whole, and a model folder."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from forklight_core.errors import CheckpointError
from forklight_model.checkpoint import load_model, parameter_shapes
from forklight_model.config import ModelConfig
from forklight_model.model import HybridModel
from forklight_model.moe import parameter_of
from forklight_model.parallel import Alone
from forklight_model.parts import FORMAT, PartsReader, StateKey, part_name, stretch_name
from forklight_model.shard import Shard

Stretch = tuple[str, StateKey, int, Tensor]
SHAPES = {"a": [4, 5], "b": [7]}
A, B = torch.arange(20.0), torch.arange(7.0) + 100


def write(folder: Path, ranks: Sequence[Sequence[Stretch]], **metadata: str) -> Path:
    """What the ranks of a trainer would have written."""
    (folder / "state").mkdir(parents=True, exist_ok=True)
    shapes = {name: SHAPES[name] for name in SHAPES}
    said = {"format": FORMAT, "adam_step": "3", "shapes": json.dumps(shapes)} | metadata
    for rank, stretches in enumerate(ranks):
        tensors = {stretch_name(name, key, start): values for name, key, start, values in stretches}
        save_file(tensors, folder / "state" / part_name(rank, len(ranks)), said)
    return folder


def weight(name: str, start: int, values: Tensor) -> Stretch:
    return name, StateKey.WEIGHT, start, values.clone()


def test_stretches_are_joined_over_files_and_only_what_is_asked_for_comes_back(tmp_path: Path) -> None:
    ranks = [
        [weight("a", 0, A[:3]), weight("b", 5, B[5:])],
        [],
        [weight("a", 3, A[3:]), weight("b", 0, B[:5])],
    ]
    with PartsReader(write(tmp_path, ranks)) as reader:
        assert (reader.shapes, reader.num_ranks, reader.adam_step) == ({"a": (4, 5), "b": (7,)}, 3, 3)
        assert not reader.has_moments
        assert torch.equal(reader.read("a", StateKey.WEIGHT, 2, 9), A[2:11])
        assert torch.equal(reader.read("b", StateKey.WEIGHT, 4), B[4:])
        assert len(reader.read("b", StateKey.WEIGHT, 7)) == 0
        with pytest.raises(CheckpointError, match="b has 7 elements, asked for 3 to 8"):
            reader.read("b", StateKey.WEIGHT, 3, 5)
        with pytest.raises(CheckpointError, match="no exp_avg of a"):
            reader.read("a", StateKey.EXP_AVG)


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        (
            [[weight("a", 0, A[:3]), weight("b", 0, B)], [weight("a", 4, A[4:])]],
            "20 elements of a .*element 3",
        ),
        (
            [[weight("a", 0, A[:5]), weight("b", 0, B)], [weight("a", 4, A[4:])]],
            "20 elements of a .*element 4",
        ),
        ([[weight("a", 0, A), weight("b", 0, B)], [weight("a", 5, A[5:])]], "20 elements of a .*element 5"),
        ([[weight("a", 0, A)], []], "7 elements of b .*element 0"),
        ([[weight("a", 0, A), weight("b", 0, B), ("b", StateKey.EXP_AVG, 0, B.clone())]], "of a .exp_avg"),
        ([[weight("a", 0, A), weight("b", 0, B), weight("c", 0, B)]], r"shape of \['c'\]"),
    ],
)
def test_state_with_a_gap_or_an_overlap_is_refused(
    tmp_path: Path, ranks: Sequence[Sequence[Stretch]], said: str
) -> None:
    with pytest.raises(CheckpointError, match=said):
        PartsReader(write(tmp_path, ranks))


def test_state_that_lacks_a_rank_or_mixes_two_checkpoints_is_refused(tmp_path: Path) -> None:
    ranks = [[weight("a", 0, A)], [weight("b", 0, B)], []]
    write(tmp_path / "whole", ranks)
    (tmp_path / "whole" / "state" / part_name(1, 3)).unlink()
    with pytest.raises(CheckpointError, match=r"lacks part-00001-of-00003.safetensors \(1 of 3"):
        PartsReader(tmp_path / "whole")
    write(tmp_path / "whole", ranks[:2])
    with pytest.raises(CheckpointError, match="parts of 2 and of 3 ranks"):
        PartsReader(tmp_path / "whole")
    other = write(tmp_path / "other", ranks, adam_step="4")
    last = part_name(2, 3)
    (write(tmp_path / "mixed", ranks) / "state" / last).write_bytes((other / "state" / last).read_bytes())
    with pytest.raises(CheckpointError, match=f"{last} is of optimizer step 4"):
        PartsReader(tmp_path / "mixed")
    with pytest.raises(CheckpointError, match="holds no part"):
        PartsReader(tmp_path / "nowhere")


def test_state_of_another_format_or_torn_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "new", [[weight("a", 0, A), weight("b", 0, B)]], format="forklight-state/9")
    with pytest.raises(CheckpointError, match="format 'forklight-state/9'"):
        PartsReader(tmp_path / "new")
    write(tmp_path / "odd", [[("a", StateKey.WEIGHT, 0, A.half()), weight("b", 0, B)]])
    with pytest.raises(CheckpointError, match="is F16, state is F32"):
        PartsReader(tmp_path / "odd")
    path = write(tmp_path / "torn", [[weight("a", 0, A), weight("b", 0, B)]]) / "state" / part_name(0, 1)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=r"part-00000-of-00001.safetensors is truncated or corrupt"):
        PartsReader(tmp_path / "torn")


def write_model(model: HybridModel, folder: Path) -> Path:
    """A checkpoint of two ranks; every parameter is cut at a third."""
    ranks: list[list[Stretch]] = [[], []]
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        third = len(flat) // 3
        ranks[0].append(weight(name, 0, flat[:third]))
        ranks[1].append(weight(name, third, flat[third:]))
    shapes = {name: list(shape) for name, shape in parameter_shapes(model.config).items()}
    write(folder, ranks, shapes=json.dumps(shapes))
    (folder / "config.json").write_text(json.dumps(model.config.to_published()))
    return folder


def test_a_checkpoint_is_a_model_folder(model: HybridModel, tmp_path: Path) -> None:
    folder = write_model(model, tmp_path)
    loaded = load_model(folder, torch.bfloat16)
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.bfloat16()), name


class Silent(Alone):
    """Stands for a part whose forward pass nobody runs."""

    def __init__(self, rank: int, size: int) -> None:
        self.shard = Shard(rank=rank, size=size)


def test_a_part_of_a_model_takes_its_part_of_a_checkpoint(config: ModelConfig, tmp_path: Path) -> None:
    model = HybridModel(replace(config, vocab_size=104))
    folder = write_model(model, tmp_path)
    whole = model.state_dict()
    for rank in range(2):
        shard = Shard(rank=rank, size=2)
        part = load_model(folder, shard=shard, gather=Silent(rank, 2))
        for name, tensor in part.state_dict().items():
            assert torch.equal(tensor, whole[name][shard.index(name, whole[name].shape)]), name


def test_a_checkpoint_of_another_shape_is_refused_by_name(
    model: HybridModel, config: ModelConfig, tmp_path: Path
) -> None:
    folder = write_model(model, tmp_path)
    other = json.loads((folder / "config.json").read_text()) | {"num_local_experts": 2}
    (folder / "config.json").write_text(json.dumps(other))
    with pytest.raises(
        CheckpointError, match=r"experts.w13_EFD is \(4, 48, 32\), the config needs \(2, 48, 32\)"
    ):
        load_model(folder)
    assert parameter_shapes(config)["model.layers.0.block_sparse_moe.experts.w2_EID"] == (4, 24, 32)


def test_published_names_lead_to_the_parameter_that_holds_them() -> None:
    experts = "model.layers.3.block_sparse_moe.experts"
    assert (
        parameter_of(f"{experts}.11.w1.weight")
        == parameter_of(f"{experts}.0.w3.weight")
        == f"{experts}.w13_EFD"
    )
    assert parameter_of(f"{experts}.2.w2.weight") == f"{experts}.w2_EID"
    assert parameter_of("lm_head.weight") == "lm_head.weight"
