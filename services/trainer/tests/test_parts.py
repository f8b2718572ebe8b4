"""State parts: whatever the ranks that wrote a checkpoint, any others read the same numbers from it."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from forklight_core.errors import CheckpointError, InvalidInputError, PreconditionError
from forklight_model.model import HybridModel
from forklight_model.parts import PartsReader, StateKey, part_name
from forklight_trainer.adapters.torch_plain import OptimizerSettings, TorchEngine
from forklight_trainer.checkpoints.parts import StatePart, await_parts, hash_of, write_parts
from forklight_trainer.checkpoints.random_state import restore_random_state
from forklight_trainer.checkpoints.snapshot import HostBuffers, RankSnapshot

ADAM = OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0)
NO_RANDOM: Mapping[str, Tensor] = {}
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # many files are flushed
# A matrix, a vector, experts stacked along dim 0, and a parameter of one element.
SHAPES = {"dense": (6, 5), "norm": (7,), "experts.w13_EFD": (4, 3, 5), "scale": (1,)}


def whole_state() -> dict[tuple[str, StateKey], Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        (name, key): torch.randn(shape, generator=generator).reshape(-1)
        for name, shape in SHAPES.items()
        for key in StateKey
    }


def cut(ends: list[list[int]], num_ranks: int) -> list[list[StatePart]]:
    """Parameters cut at the given places; stretches go round the ranks, so that some own none."""
    state, ranks = whole_state(), [list[StatePart]() for _ in range(num_ranks)]
    turn = 0
    for (name, shape), places in zip(SHAPES.items(), ends, strict=True):
        total = state[name, StateKey.WEIGHT].numel()
        bounds = [0, *sorted(place % (total + 1) for place in places), total]
        for start, end in pairwise(bounds):
            for key in StateKey:
                values = state[name, key][start:end].clone()
                part = StatePart(name=name, key=key, shape=shape, start=start, values=values)
                ranks[turn % num_ranks].append(part)
            turn += 1
    return ranks


def write_all(folder: Path, ranks: list[list[StatePart]]) -> None:
    for rank, parts in enumerate(ranks):
        write_parts(folder, parts, rank=rank, num_ranks=len(ranks), adam_step=9, random=NO_RANDOM)


cuts = st.lists(st.lists(st.integers(0, 100), max_size=5), min_size=len(SHAPES), max_size=len(SHAPES))


@settings(max_examples=40, deadline=None)
@given(ends=cuts, num_ranks=st.integers(1, 7), asked=st.data())
def test_any_cut_over_any_ranks_reads_back_as_any_other(
    ends: list[list[int]], num_ranks: int, asked: st.DataObject
) -> None:
    state = whole_state()
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        write_all(Path(folder), cut(ends, num_ranks))
        with PartsReader(folder) as reader:
            assert reader.shapes == SHAPES and reader.adam_step == 9 and reader.num_ranks == num_ranks
            for (name, key), values in state.items():
                assert torch.equal(reader.read(name, key), values)
                start = asked.draw(st.integers(0, len(values)))
                length = asked.draw(st.integers(0, len(values) - start))
                assert torch.equal(reader.read(name, key, start, length), values[start : start + length])


def test_experts_split_along_their_first_dim_come_back_whole(tmp_path: Path) -> None:
    values = whole_state()["experts.w13_EFD", StateKey.WEIGHT]
    for rank in range(4):
        own = values[rank * 15 : (rank + 1) * 15].clone()
        part = StatePart(
            name="experts.w13_EFD", key=StateKey.WEIGHT, shape=(4, 3, 5), start=rank * 15, values=own
        )
        write_parts(tmp_path, [part], rank=rank, num_ranks=4, adam_step=0, random=NO_RANDOM)
    with PartsReader(tmp_path) as reader:
        for rank in range(2):
            half = reader.read("experts.w13_EFD", StateKey.WEIGHT, rank * 30, 30)
            assert torch.equal(half, values[rank * 30 : (rank + 1) * 30])


def test_two_parts_at_the_same_place_of_a_rank_are_refused(tmp_path: Path) -> None:
    part = cut([[], [], [], []], 1)[0][0]
    with pytest.raises(InvalidInputError, match="same element"):
        write_parts(tmp_path, [part, part], rank=0, num_ranks=1, adam_step=0, random=NO_RANDOM)


def engine_parts(engine: TorchEngine, num_ranks: int) -> Iterator[list[StatePart]]:
    """What ranks of a sharded engine would own: equal flat shares of every parameter, some of them empty."""
    snapshot = engine.snapshot()
    for rank in range(num_ranks):
        own = []
        for part in snapshot.parts:
            share = -(-len(part.values) // num_ranks)
            low, high = min(rank * share, len(part.values)), min((rank + 1) * share, len(part.values))
            values = part.values[low:high].clone()
            own.append(StatePart(name=part.name, key=part.key, shape=part.shape, start=low, values=values))
        yield own
    snapshot.release()


def stepped(model: HybridModel) -> TorchEngine:
    """An engine with moments."""
    engine = TorchEngine(model, ADAM)
    for parameter in model.parameters():
        parameter.grad = torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())
        )
    engine.update(learning_rate=1e-3, grad_clip=1.0)
    engine.discard_gradients()
    return engine


def test_an_engine_restores_from_many_ranks_and_says_that_random_state_is_new(
    make_model: Callable[[int], HybridModel], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = stepped(make_model(0))
    for rank, parts in enumerate(engine_parts(ours, 5)):
        random = {"cpu": torch.get_rng_state()}
        write_parts(tmp_path, parts, rank=rank, num_ranks=5, adam_step=1, random=random)
    theirs = TorchEngine(make_model(1), ADAM)
    with caplog.at_level(logging.WARNING):
        theirs.restore(tmp_path)
    assert "random state is newly derived" in caplog.text
    drawn = torch.rand(4)
    theirs.restore(tmp_path)
    assert torch.equal(torch.rand(4), drawn)
    for one, other in zip(ours.snapshot().parts, theirs.snapshot().parts, strict=True):
        assert (one.name, one.key) == (other.name, other.key) and torch.equal(one.values, other.values)


def test_random_state_is_each_ranks_own_when_there_are_as_many(tmp_path: Path) -> None:
    states = []
    for rank in range(2):
        torch.manual_seed(rank)
        parts = [] if rank else cut([[], [], [], []], 1)[0]
        random = {"cpu": torch.get_rng_state()}
        write_parts(tmp_path, parts, rank=rank, num_ranks=2, adam_step=0, random=random)
        states.append(torch.rand(3))
    with PartsReader(tmp_path) as reader:
        for rank in (1, 0):
            restore_random_state(reader, torch.device("cpu"), rank=rank, num_ranks=2)
            assert torch.equal(torch.rand(3), states[rank])


def test_a_parameter_that_missed_a_step_cannot_be_saved(make_model: Callable[[int], HybridModel]) -> None:
    model = make_model(0)
    engine = stepped(model)
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    engine.update(learning_rate=1e-3, grad_clip=1.0)
    with pytest.raises(PreconditionError, match="1, 2 steps of the optimizer"):
        engine.snapshot()


def test_the_first_rank_waits_for_the_others_and_names_those_that_do_not_come(tmp_path: Path) -> None:
    ranks = cut([[3], [2], [15, 30], []], 3)
    snapshots = [
        RankSnapshot(
            parts=parts,
            adam_step=1,
            random=NO_RANDOM,
            buffers=HostBuffers(),
            rank=rank,
            num_ranks=3,
            deadline_s=20.0,
        )
        for rank, parts in enumerate(ranks)
    ]
    first = threading.Thread(target=snapshots[0].write, args=(tmp_path,))
    first.start()
    snapshots[1].write(tmp_path)
    part = tmp_path / "state" / part_name(0, 3)
    end_s = time.monotonic() + 20
    while not hash_of(part).exists() and time.monotonic() < end_s:
        time.sleep(0.01)
    with pytest.raises(CheckpointError, match="1 of 3 ranks have not written .* rank 2"):
        await_parts(tmp_path, 3, deadline_s=0.0)
    assert first.is_alive()
    snapshots[2].write(tmp_path)
    first.join(20)
    assert not first.is_alive()
    PartsReader(tmp_path).close()


def test_snapshots_use_the_same_memory_again_and_only_once_at_a_time(
    make_model: Callable[[int], HybridModel],
) -> None:
    engine = stepped(make_model(0))
    first = engine.snapshot()
    before = [part.values.clone() for part in first.parts]
    for parameter in engine._master.parameters():
        parameter.grad = torch.ones_like(parameter)
    engine.update(learning_rate=0.1, grad_clip=1.0)
    assert all(torch.equal(part.values, values) for part, values in zip(first.parts, before, strict=True))
    with pytest.raises(PreconditionError, match="still being written"):
        engine.snapshot()
    addresses = {part.values.data_ptr() for part in first.parts}
    first.release()
    second = engine.snapshot()
    assert {part.values.data_ptr() for part in second.parts} == addresses
    assert not torch.equal(second.parts[0].values, before[0])
