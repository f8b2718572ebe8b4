"""Published weights: what is verified, what is refused, and how a version is followed."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

import blake3
import pytest
import torch

from forklight.v1 import types_pb2
from forklight_core.errors import UnavailableError, WeightsError
from forklight_model.checkpoint import published_tensors
from forklight_model.logprobs import token_logprobs
from forklight_model.model import HybridModel
from forklight_rollout.adapters.native import NativeEngine
from forklight_rollout.adapters.published import load_weights
from forklight_rollout.generation.draft import Span
from forklight_rollout.generation.engine_thread import EngineThread
from forklight_rollout.generation.generator import Generator
from forklight_rollout.generation.groups import FinishedSample, GroupWork
from forklight_rollout.problems import Problems
from forklight_rollout.weights.manifest import PublishedWeights
from forklight_rollout.weights.probe import ProbeOutcome
from forklight_rollout.weights.swap_policy import SwapRules, swap_weights
from forklight_rollout.weights.watcher import WeightsWatcher
from services.rollout.tests.versions import verify, write_version
from services.rollout.tests.waiting import eventually

RUN_ID = "test-run"
Publish = Callable[[int], types_pb2.WeightsRef]


def rewrite(reference: types_pb2.WeightsRef, **changes: object) -> types_pb2.WeightsRef:
    """Change fields of a manifest and announce it under its new hash."""
    path = Path(reference.manifest)
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(fields))
    manifest_id = "b3:" + blake3.blake3(path.read_bytes()).hexdigest()
    return types_pb2.WeightsRef(
        version=reference.version, manifest=reference.manifest, manifest_id=manifest_id
    )


Tensors = dict[str, torch.Tensor]


def publish_changed(
    root: Path, model: HybridModel, change: Callable[[Tensors], object]
) -> types_pb2.WeightsRef:
    """A version of other tensors than its configuration says, or of other values, with hashes that fit."""
    tensors = {name: tensor.clone() for name, tensor in published_tensors(model)}
    change(tensors)
    return write_version(root, tensors, model.config.to_published(), 0)


def flip_byte(path: Path, at: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.write_bytes(data)


def test_sound_weights_become_the_model_that_was_published(
    publish: Publish, models: dict[int, HybridModel]
) -> None:
    loaded = load_weights(verify(publish(1)), dtype=torch.float32)
    for (name, found), (expected_name, expected) in zip(
        loaded.state_dict().items(), models[1].state_dict().items(), strict=True
    ):
        assert name == expected_name
        assert torch.equal(found, expected)


def test_weights_of_kernels_that_round_otherwise_are_refused(publish: Publish) -> None:
    weights = verify(rewrite(publish(0), kernels="0123456789abcdef"))
    with pytest.raises(WeightsError, match=r"kernels' contract '0123456789abcdef'.*same release"):
        load_weights(weights, dtype=torch.float32)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: flip_byte(next(folder.glob("*.safetensors"))), "hashes to"),
        (lambda folder: flip_byte(next(folder.glob("*.safetensors")), at=9), "head hashes to"),
        (lambda folder: next(folder.glob("*.safetensors")).write_bytes(b"short"), "has 5 bytes"),
        (lambda folder: next(folder.glob("*.safetensors")).unlink(), "cannot be read"),
        (lambda folder: flip_byte(folder / "manifest.json"), "hashes to"),
        (lambda folder: (folder / "manifest.json").unlink(), "cannot be read"),
    ],
)
def test_torn_files_are_refused(publish: Publish, damage: Callable[[Path], None], reason: str) -> None:
    reference = publish(0)
    damage(Path(reference.manifest).parent)
    with pytest.raises(WeightsError, match=reason):
        load_weights(verify(reference), dtype=torch.float32)


def test_a_file_that_is_cut_or_gone_once_it_was_looked_at_is_refused(
    publish: Publish, make_engine: Callable[..., NativeEngine]
) -> None:
    """The engine goes on with what it has."""
    weights = verify(publish(1))
    shard = next(weights.folder.glob("*.safetensors"))
    engine = make_engine()
    before = {name: tensor.clone() for name, tensor in engine._model.state_dict().items()}
    os.truncate(shard, shard.stat().st_size // 2)
    with pytest.raises(WeightsError, match=f"{shard.name} is torn: it ends before byte"):
        engine.stage(weights)
    shard.unlink()
    with pytest.raises(WeightsError, match=f"{shard.name} cannot be read"):
        engine.stage(weights)
    with pytest.raises(WeightsError, match="no weights are staged"):
        engine.swap()
    after = engine._model.state_dict()
    assert engine.version == 0 and all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema_version": 1},
        {"schema_version": 3},
        {"kind": "delta"},
        {"kind": "other"},
        {"base": {"version": 0, "manifest_id": "b3:0", "folder": "v00000000", "mirror": ""}},
        {"version": 7},
        {"run_id": "other"},
        {"files": [{"file": "../escape", "size_bytes": 1, "head_bytes": 0}]},
        {"files": []},
        {"tensors": 3},
        {"config": None, "files": None},
    ],
)
def test_a_manifest_that_cannot_be_meant_is_refused(publish: Publish, changes: dict[str, object]) -> None:
    with pytest.raises(WeightsError, match="manifest.json"):
        verify(rewrite(publish(0), **changes))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensors: tensors.pop("lm_head.weight"), "lm_head.weight is missing"),
        (lambda tensors: tensors.update(extra=torch.ones(1)), "extra is not in the model"),
        (
            lambda tensors: tensors.update({"model.norm.weight": torch.ones(3)}),
            r"model.norm.weight is \(3,\), the model has",
        ),
        (lambda tensors: tensors["lm_head.weight"][0].fill_(torch.nan), "not finite"),
    ],
)
def test_tensors_other_than_promised_are_refused(
    tmp_path: Path, models: dict[int, HybridModel], change: Callable[[Tensors], object], reason: str
) -> None:
    reference = publish_changed(tmp_path, models[0], change)
    with pytest.raises(WeightsError, match=reason):
        load_weights(verify(reference), dtype=torch.float32)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("blake3", "0" * 64, "tensor model.norm.weight is torn"),
        ("length", 3, "its shape needs"),
        ("offset", 2**40, "beyond the end"),
        ("offset", -1, "no count"),
        ("shape", [-1], "no count"),
        ("dtype", "float12", "unknown type"),
        ("encoding", "changes", "in a full version|stored_blake3"),
        ("file", "other.safetensors", "other.safetensors"),
    ],
)
def test_a_tensor_that_lies_elsewhere_than_promised_is_refused(
    publish: Publish, field: str, value: object, reason: str
) -> None:
    reference = publish(0)
    tensors = json.loads(Path(reference.manifest).read_text())["tensors"]
    tensors["model.norm.weight"][field] = value
    with pytest.raises(WeightsError, match=reason):
        load_weights(verify(rewrite(reference, tensors=tensors)), dtype=torch.float32)


def test_another_architecture_is_refused_when_one_runs(
    publish: Publish, make_engine: Callable[..., NativeEngine]
) -> None:
    reference = publish(1)
    config = json.loads(Path(reference.manifest).read_text())["config"]
    changed = verify(rewrite(reference, config=config | {"num_experts_per_tok": 1}))
    engine = make_engine()
    with pytest.raises(WeightsError, match="another architecture"):
        engine.stage(changed)
    with pytest.raises(WeightsError, match="no weights are staged"):
        engine.swap()
    assert engine.version == 0


def test_a_swap_keeps_running_sequences_and_records_the_spans(
    make_engine: Callable[..., NativeEngine],
    make_work: Callable[..., GroupWork],
    finish: Callable[[Generator], dict[str, FinishedSample]],
    published: dict[int, PublishedWeights],
) -> None:
    def generate(swap_after: int) -> dict[str, FinishedSample]:
        engine = make_engine(max_batch=2)
        generator = Generator(engine)
        generator.add(make_work(0, num_samples=3, max_new_tokens=12))
        for _ in range(swap_after):
            generator.step()
        engine.stage(published[1])
        engine.swap()
        return finish(generator)

    swapped, new = generate(5), generate(0)
    first, third = (swapped[f"test-run/g00000000/s00{number}"] for number in (0, 2))
    assert first.response.spans == (Span(start=0, version=0), Span(start=5, version=1))
    assert len(first.response.ids) == 12
    # The third sample waited for a slot: its prompt is prefilled again, so that all of it is version 1.
    assert third.response.spans == (Span(start=0, version=1),)
    assert third.response.ids == new["test-run/g00000000/s002"].response.ids
    assert first.response.ids != new["test-run/g00000000/s000"].response.ids


class Announcements:
    """The newest weights, as a pod reads them."""

    def __init__(self) -> None:
        self.newest: types_pb2.WeightsRef | None = None
        self.is_away = False
        self.num_reads = 0

    async def read(self) -> types_pb2.WeightsRef | None:
        self.num_reads += 1
        if self.is_away:
            raise UnavailableError("Redis does not answer")
        return self.newest


async def test_a_torn_version_is_reported_and_the_next_one_repairs_it(
    publish: Publish, make_engine: Callable[..., NativeEngine], tmp_path: Path
) -> None:
    announced, stop, problems = Announcements(), asyncio.Event(), Problems()
    watcher = WeightsWatcher(announced.read, run_id=RUN_ID, problems=problems, poll_s=0.01)
    waiting = asyncio.create_task(watcher.wait_first(lambda weights: make_engine(), stop))
    await eventually(lambda: announced.num_reads > 2)
    assert "no weights announced yet" in problems.summary()
    announced.newest = publish(0)
    first = await waiting
    assert first is not None
    assert problems.summary() == ""
    thread = EngineThread(Generator(first.engine))
    thread.start(deliver=lambda finished: None)
    following = asyncio.create_task(watcher.run(first.engine, thread, stop))
    try:
        sound = publish(1)
        shard = next(Path(sound.manifest).parent.glob("*.safetensors"))
        data = shard.read_bytes()
        flip_byte(shard)
        announced.newest = sound
        await eventually(lambda: "hashes to" in problems.summary())
        assert first.engine.version == 0
        announced.is_away = True
        await eventually(lambda: "Redis does not answer" in problems.summary())
        shard.write_bytes(data)
        announced.is_away = False
        await eventually(lambda: first.engine.version == 1)
        await eventually(lambda: "hashes to" not in problems.summary())
        assert 0 < watcher.last_swap_s < 1
    finally:
        stop.set()
        await following
        await thread.close()


async def test_waiting_for_weights_ends_when_told_to_stop(make_engine: Callable[..., NativeEngine]) -> None:
    stop = asyncio.Event()
    watcher = WeightsWatcher(Announcements().read, run_id=RUN_ID, problems=Problems(), poll_s=5)
    waiting = asyncio.create_task(watcher.wait_first(lambda weights: make_engine(), stop))
    await asyncio.sleep(0)
    stop.set()
    assert await waiting is None


def probe_of(model: HybridModel, num_tokens: int = 100) -> dict[str, object]:
    """What a trainer would publish: its own forward pass over a packed sequence."""
    ids = torch.randint(103, (num_tokens,), generator=torch.Generator().manual_seed(3))
    logprobs_T = token_logprobs(model, ids, torch.tensor([0, num_tokens], dtype=torch.int32)).logprobs_T
    mode = {"is_parity": False, "contract": "", "device": "cpu", "torch": "", "triton": ""}
    return {"ids": ids.tolist(), "logprobs": logprobs_T[1:].tolist(), "mode": mode}


def test_an_engine_passes_the_probe_of_its_weights_and_of_no_others(
    publish: Publish, make_engine: Callable[..., NativeEngine], models: dict[int, HybridModel]
) -> None:
    own = verify(rewrite(publish(1), probe=probe_of(models[1])))
    other = verify(rewrite(publish(0), probe=probe_of(models[1])))
    engine = make_engine()
    generator = Generator(engine)
    for weights, outcome in ((own, ProbeOutcome.WITHIN), (other, ProbeOutcome.DISAGREES)):
        engine.stage(weights)
        probe = swap_weights(generator, weights, SwapRules()).probe
        assert (probe.outcome, probe.num_compared) == (outcome, 99)
        assert generator.is_admitting == probe.is_sound
    assert probe.num_off > 90
