"""Versions that hold what changed, as a pod takes them: from any version before, beside what runs, or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from forklight.v1 import types_pb2
from forklight_core.errors import WeightsError
from forklight_core.weights.reading import verify_tensors
from forklight_model.checkpoint import load_published_tensors, published_tensors
from forklight_model.model import HybridModel
from forklight_model.parallel import Alone
from forklight_model.shard import Shard
from forklight_rollout.adapters.native import NativeEngine
from forklight_rollout.adapters.native.ranks.messages import Load, decode_task, encode_task
from forklight_rollout.adapters.published import check_values, load_weights, read_tensors
from forklight_rollout.generation.engine_thread import EngineThread
from forklight_rollout.generation.generator import Generator
from forklight_rollout.problems import Problems
from forklight_rollout.weights.manifest import PublishedWeights
from forklight_rollout.weights.watcher import WeightsWatcher
from services.rollout.tests.conftest import nano_model, publish_model
from services.rollout.tests.ranks_scenario import CONFIG
from services.rollout.tests.test_weights import Announcements, flip_byte
from services.rollout.tests.versions import RUN_ID, verify, write_delta
from services.rollout.tests.waiting import eventually

CHANGES = "changes-r0-1.bin"
Tensors = dict[str, Tensor]


def tensors_of(model: HybridModel) -> Tensors:
    return {name: tensor.clone() for name, tensor in published_tensors(model)}


def a_little_further(tensors: Tensors, seed: int) -> Tensors:
    """One value in fifty to a number beside it."""
    chance, found = torch.Generator().manual_seed(seed), {}
    for name, tensor in tensors.items():
        is_moved = torch.rand(tensor.shape, generator=chance) < 0.02
        found[name] = tensor * (1 + 1e-6 * is_moved)
    return found


@dataclass
class Chain:
    """Version 0 full, the others deltas, each against the one before; and what each holds."""

    references: list[types_pb2.WeightsRef]
    tensors: list[Tensors]

    def weights(self, version: int) -> PublishedWeights:
        return verify(self.references[version])

    def folder(self, version: int) -> Path:
        return Path(self.references[version].manifest).parent


def make_chain(root: Path, model: HybridModel) -> Chain:
    made = Chain([publish_model(root, model, 0)], [tensors_of(model)])
    for version in (1, 2, 3):
        made.tensors.append(a_little_further(made.tensors[-1], version))
        base, (old, new) = made.weights(version - 1), made.tensors[-2:]
        made.references.append(write_delta(base, new, old, version))
    return made


@pytest.fixture
def chain(tmp_path: Path, models: dict[int, HybridModel]) -> Chain:
    return make_chain(tmp_path / "weights", models[0])


@pytest.fixture
def cut_chain(tmp_path: Path) -> Chain:
    """Of a model that two processes can share."""
    model = HybridModel(CONFIG, is_initialized=False)
    model.initialize(torch.Generator().manual_seed(0))
    return make_chain(tmp_path / "weights", model.requires_grad_(False))


def require_equal(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name].contiguous().view(torch.uint8), tensor.view(torch.uint8)), name


@pytest.mark.parametrize("version", [0, 1, 3])
def test_a_delta_is_loaded_bit_for_bit(chain: Chain, version: int) -> None:
    weights = chain.weights(version)
    assert len(weights.layers) == version + 1
    model = load_weights(weights, dtype=torch.float32)
    require_equal(tensors_of(model), chain.tensors[version])
    require_equal(read_tensors(weights), chain.tensors[version])


def test_a_pod_behind_takes_the_newest_delta_and_keeps_what_runs_until_the_swap(
    chain: Chain, make_engine: Callable[..., NativeEngine]
) -> None:
    """The engine has version 0; versions 1 and 2 were never seen."""
    engine = make_engine()
    in_use = engine._model.state_dict()
    engine.stage(chain.weights(3))
    require_equal(in_use, chain.tensors[0])
    engine.swap()
    assert engine.version == 3
    require_equal(engine._model.state_dict(), chain.tensors[3])


class Silent(Alone):
    """One of two processes; the other one never speaks."""

    def __init__(self, rank: int) -> None:
        self.shard = Shard(rank=rank, size=2)


def load_part(weights: PublishedWeights, rank: int) -> HybridModel:
    gather = Silent(rank)
    return load_weights(weights, dtype=torch.float32, shard=gather.shard, gather=gather)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_of_a_delta_are_the_slices_of_the_whole(cut_chain: Chain, dtype: torch.dtype) -> None:
    whole = load_weights(cut_chain.weights(3), dtype=dtype)
    for rank in range(2):
        gather = Silent(rank)
        part = load_weights(cut_chain.weights(3), dtype=dtype, shard=gather.shard, gather=gather)
        expected = HybridModel(CONFIG, False, shard=gather.shard, gather=gather).to(dtype)
        load_published_tensors(expected, tensors_of(whole))
        require_equal(tensors_of(part), tensors_of(expected))


@pytest.mark.parametrize("name", ["lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"])
def test_processes_that_hold_parts_prove_all_of_it_between_them(cut_chain: Chain, name: str) -> None:
    """Wherever the byte is, one process finds it, also when it holds another part of the tensor."""
    weights = cut_chain.weights(3)
    bottom = weights.bases[-1]
    entry = bottom.manifest.tensors[name]
    for place in (entry.offset, entry.offset + entry.length - 1):
        flip_byte(bottom.folder / entry.file, at=place)
        refused = []
        for rank in range(2):
            try:
                load_part(weights, rank)
            except WeightsError as error:
                refused.append(str(error))
        flip_byte(bottom.folder / entry.file, at=place)
        assert len(refused) == 1 and f"tensor {name} is torn" in refused[0]
    load_part(weights, 0)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda chain: flip_byte(chain.folder(3) / CHANGES), "hash to"),
        (lambda chain: flip_byte(chain.folder(1) / CHANGES), "hash to"),
        (lambda chain: flip_byte(next(chain.folder(0).glob("*.safetensors"))), "is torn"),
        (lambda chain: (chain.folder(2) / CHANGES).unlink(), "its base, version 2, is not at hand"),
        (lambda chain: (chain.folder(0) / "manifest.json").unlink(), "until the next full version comes"),
    ],
)
def test_a_delta_that_cannot_be_applied_is_refused(
    chain: Chain, make_engine: Callable[..., NativeEngine], damage: Callable[[Chain], None], reason: str
) -> None:
    engine = make_engine()
    damage(chain)
    with pytest.raises(WeightsError, match=reason):
        engine.stage(chain.weights(3))
    with pytest.raises(WeightsError, match="no weights are staged"):
        engine.swap()
    require_equal(engine._model.state_dict(), chain.tensors[0])


def test_a_delta_that_is_not_what_was_hashed_is_refused(chain: Chain) -> None:
    """Sound records of another change: what they make is held against the hash of the whole tensor."""
    wrong = write_delta(chain.weights(2), chain.tensors[3], chain.tensors[1], 4)
    with pytest.raises(WeightsError, match=r"tensor .* is torn"):
        verify_tensors(verify(wrong).layers)
    with pytest.raises(WeightsError, match=r"tensor .* is torn"):
        load_weights(verify(wrong), dtype=torch.float32)


def test_followers_are_told_of_all_layers(chain: Chain) -> None:
    load = Load(weights=chain.weights(3), dtype="float32")
    assert decode_task(encode_task(load)) == load


async def test_a_pod_says_what_it_waits_for_and_the_next_full_version_mends_it(
    chain: Chain, make_engine: Callable[..., NativeEngine], tmp_path: Path
) -> None:
    announced, stop, problems = Announcements(), asyncio.Event(), Problems()
    watcher = WeightsWatcher(announced.read, run_id=RUN_ID, problems=problems, poll_s=0.01)
    announced.newest = chain.references[0]
    first = await watcher.wait_first(lambda weights: make_engine(), stop)
    assert first is not None
    thread = EngineThread(Generator(first.engine))
    thread.start(deliver=lambda finished: None)
    following = asyncio.create_task(watcher.run(first.engine, thread, stop))
    try:
        (chain.folder(1) / CHANGES).unlink()
        announced.newest = chain.references[2]
        await eventually(lambda: "until the next full version comes" in problems.summary())
        assert first.engine.version == 0
        announced.newest = publish_model(tmp_path / "weights", nano_model(5), 4)
        await eventually(lambda: first.engine.version == 4)
        await eventually(lambda: problems.summary() == "")
    finally:
        stop.set()
        await following
        await thread.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf"), None])
def test_values_that_are_no_numbers_are_found_wherever_they_are(
    chain: Chain, dtype: torch.dtype, odd: float | None
) -> None:
    """Also in a tensor that lies the other way round, and among the largest and least numbers."""
    for shape in ((), (1,), (3000, 150), (0, 4)):
        tensor = torch.full(shape, torch.finfo(dtype).max, dtype=dtype)
        tensor = tensor.t() if len(shape) == 2 else tensor
        if odd is not None and tensor.numel():
            tensor.view(-1)[-1:].fill_(odd) if tensor.is_contiguous() else tensor[-1, -1].fill_(odd)
        tensors = {"low": torch.full((5,), torch.finfo(dtype).min, dtype=dtype), "odd": tensor}
        if odd is None or not tensor.numel():
            check_values(chain.weights(0), tensors)
        else:
            with pytest.raises(WeightsError, match="odd holds values that are not finite"):
                check_values(chain.weights(0), tensors)
