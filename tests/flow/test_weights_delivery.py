"""Weights from the trainer's engine into pods' memory: through a folder, a store, or sent to all at once."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from forklight.v1 import types_pb2
from forklight_core.runfile.sections.publication import PublicationSection
from forklight_model.file_sending import FileSender
from forklight_model.model import HybridModel
from forklight_model.sending_group import SendRules
from forklight_model.sizes import SIZES
from forklight_model.tokenizer import build_character_tokenizer
from forklight_rollout.adapters.published import load_weights
from forklight_rollout.weights.cache import WeightsCache
from forklight_rollout.weights.source import CachedSource, SharedFolder
from forklight_trainer.adapters.torch_plain import OptimizerSettings, TorchEngine
from forklight_trainer.publishing.contract import contract_hash
from forklight_trainer.publishing.sending import VersionSender
from forklight_trainer.publishing.versions import WeightsStore
from tests.flow.weights_pod import BUCKET_BYTES, RUN_ID, checksum

ADAM = OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0)
POD = Path(__file__).with_name("weights_pod.py")
ANSWER_S = 120.0


@cache
def engine_at(version: int) -> TorchEngine:
    """A real update or two between versions."""
    model = HybridModel(SIZES["nano"], is_initialized=False)
    model.initialize(torch.Generator().manual_seed(0))
    engine = TorchEngine(model, ADAM, dtype=torch.bfloat16)
    for number in range(version):
        chance = torch.Generator().manual_seed(number)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=chance)
        engine.update(learning_rate=1e-6, grad_clip=1e9)
    return engine


def make_store(folder: Path, **publication: object) -> WeightsStore:
    return WeightsStore(
        folder=folder,
        run_id=RUN_ID,
        tokenizer=build_character_tokenizer(),
        dtype="bfloat16",
        contract=contract_hash(SIZES["nano"], "bfloat16"),
        publication=PublicationSection(**publication),  # type: ignore[arg-type]
    )


def publish(store: WeightsStore, version: int) -> types_pb2.WeightsRef:
    return store.publish(engine_at(version), version=version, step=version)


def sums_of(version: int) -> dict[str, int]:
    weights = engine_at(version)._compute.state_dict()
    return {name: checksum(tensor) for name, tensor in weights.items()}


@pytest.mark.parametrize("delta_base", ["full", "previous"])
def test_what_a_pod_loads_is_what_the_trainer_computes_with(tmp_path: Path, delta_base: str) -> None:
    """Every version in turn, and the newest again by a pod that has seen none of them."""
    store = make_store(tmp_path / "weights", full_every=3, delta_base=delta_base)
    for version in range(5):
        weights = SharedFolder().open(publish(store, version), RUN_ID)
        model = load_weights(weights, dtype=torch.bfloat16)
        assert {name: checksum(tensor) for name, tensor in model.state_dict().items()} == sums_of(version)
        assert weights.manifest.num_stored_bytes < 0.1 * weights.manifest.num_bytes or version in (0, 3)
        assert weights.manifest.probe is not None


def test_pods_elsewhere_read_the_store_alone(tmp_path: Path) -> None:
    pytest.importorskip("obstore", reason="the extra s3 is not installed")
    store = make_store(tmp_path / "weights", url=f"file://{tmp_path}/bucket", full_every=4)
    pod = CachedSource(cache=WeightsCache(folder=tmp_path / "pod"))
    late = CachedSource(cache=WeightsCache(folder=tmp_path / "late"))
    references = [publish(store, version) for version in range(4)]
    (tmp_path / "weights").rename(tmp_path / "hidden")  # a disk that pods do not see
    for source, version in ((pod, 0), (pod, 1), (pod, 3), (late, 3)):
        model = load_weights(source.open(references[version], RUN_ID), dtype=torch.bfloat16)
        assert {name: checksum(tensor) for name, tensor in model.state_dict().items()} == sums_of(version)


class Pod:
    """A process that takes weights."""

    def __init__(self, rendezvous: str, cache: Path, kill_after: int = 0) -> None:
        command = [sys.executable, str(POD), rendezvous, str(cache), str(kill_after)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.read() == "ready"

    def tell(self, announced: types_pb2.WeightsRef) -> None:
        fields = {name: getattr(announced, name) for name in ("version", "manifest", "manifest_id")}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(fields) + "\n")
        self.process.stdin.flush()

    def read(self) -> str:
        """The next line; empty when the process has ended."""
        assert self.process.stdout is not None
        lines: list[str] = []
        reading = threading.Thread(target=lambda: lines.append(self.process.stdout.readline()), daemon=True)  # type: ignore[union-attr]
        reading.start()
        reading.join(ANSWER_S)
        assert lines, "the pod does not answer"
        return lines[0].strip()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def sender(monkeypatch: pytest.MonkeyPatch) -> FileSender:
    for name, value in (
        ("GLOO_SOCKET_IFNAME", "lo"),
        ("OMP_NUM_THREADS", "1"),
        ("TORCH_CPP_LOG_LEVEL", "FATAL"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
    rules = SendRules(
        rendezvous="127.0.0.1:0", num_receivers=2, join_s=60.0, deadline_s=6.0, bucket_bytes=BUCKET_BYTES
    )
    return FileSender(rules)


@pytest.fixture
def pods(sender: FileSender, tmp_path: Path) -> Iterator[list[Pod]]:
    """Two; the first dies in the middle of the second version that it is sent."""
    num_buckets = -(-SIZE_OF_FULL // BUCKET_BYTES)
    place = f"127.0.0.1:{sender.port}"
    made = [Pod(place, tmp_path / "pod0", kill_after=num_buckets + 40), Pod(place, tmp_path / "pod1")]
    yield made
    for pod in made:
        pod.end()


SIZE_OF_FULL = sum(tensor.nbytes for tensor in HybridModel(SIZES["nano"]).to(torch.bfloat16).parameters())


def test_a_dead_pod_holds_up_neither_the_trainer_nor_the_others(
    tmp_path: Path, sender: FileSender, pods: list[Pod]
) -> None:
    """Version 0 is sent to both. While version 1 is sent one dies: the trainer goes on at once, the other pod
    reads the files. Version 2 is sent to who is left."""
    store = make_store(tmp_path / "weights", full_every=1, lanes=1)
    object.__setattr__(store, "sender", VersionSender(sender))
    assert store.sender is not None
    answers = []
    for version in range(3):
        reference = publish(store, version)
        for pod in pods[version > 1 :]:
            pod.tell(reference)
        if version == 2:
            sender._rules = replace(sender._rules, num_receivers=1)
        started = time.monotonic()
        store.send(reference)
        assert time.monotonic() - started < 5  # a thread does it
        answers.append(json.loads(pods[1].read()))
        assert store.sender.wait(60.0)
        assert pods[0].read() == "" if version else json.loads(pods[0].read())["sums"] == sums_of(0)
    assert [answer["version"] for answer in answers] == [0, 1, 2]
    assert [answer["is_copied"] for answer in answers] == [True, False, True]
    for version, answer in enumerate(answers):
        assert answer["sums"] == sums_of(version)
