"""Versions that hold what changed: which ones, against what, after which accidents; their copy in a store."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from forklight_core.errors import BusyError, WeightsError
from forklight_core.runfile.sections.publication import PublicationSection
from forklight_core.weights.manifest import MANIFEST_FILE, Encoding, Manifest
from forklight_core.weights.reading import open_layers, verify_tensors
from forklight_model.tokenizer import build_character_tokenizer, load_tokenizer
from forklight_trainer.adapters.torch_plain import OptimizerSettings, TorchEngine
from forklight_trainer.publishing import held, sink, work
from forklight_trainer.publishing.folders import load_version
from forklight_trainer.publishing.held import forget_held, held_tensors
from forklight_trainer.publishing.versions import WeightsStore
from services.trainer.tests.conftest import tiny_model

ADAM = OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0)
RUN = "test-run"


@cache
def engine_at(step: int) -> TorchEngine:
    """bf16 weights after so many steps; each moves a few values to their neighbours."""
    model = tiny_model(0)
    with torch.no_grad():
        for number in range(step):
            chance = torch.Generator().manual_seed(number)
            for parameter in model.parameters():
                is_moved = torch.rand(parameter.shape, generator=chance) < 0.02
                parameter.mul_(1 + 0.01 * is_moved)
    return TorchEngine(model, ADAM, dtype=torch.bfloat16)


def make_store(folder: Path, **publication: object) -> WeightsStore:
    return WeightsStore(
        folder=folder,
        run_id=RUN,
        tokenizer=build_character_tokenizer(),
        dtype="bfloat16",
        contract="c0",
        publication=PublicationSection(**publication),  # type: ignore[arg-type]
    )


MakeStore = Callable[..., WeightsStore]


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[MakeStore]:
    """Stores over one folder, as a trainer opens one at each start."""
    folder = tmp_path / "weights"

    def make(**publication: object) -> WeightsStore:
        forget_held(str(folder.resolve()))  # a new process holds nothing
        return make_store(folder, **publication)

    yield make
    forget_held(str(folder.resolve()))


def manifest_of(store: WeightsStore, version: int) -> Manifest:
    return open_layers(store.version_folder(version) / MANIFEST_FILE)[0].manifest


def publish(store: WeightsStore, *versions: int) -> list[Manifest]:
    """Versions that are a step apart."""
    for version in versions:
        store.publish(engine_at(version), version=version, step=version)
    return [manifest_of(store, version) for version in versions if store.find_version(version)]


def check_holds(store: WeightsStore, version: int) -> None:
    """The version is what the engine had, bit for bit."""
    verify_tensors(open_layers(store.version_folder(version) / MANIFEST_FILE))
    loaded = load_version(store.version_folder(version), torch.bfloat16).state_dict()
    expected = engine_at(version)._compute.state_dict()
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(loaded[name].view(torch.int16), tensor.contiguous().view(torch.int16)), name


def test_versions_between_full_ones_hold_what_changed(open_store: MakeStore) -> None:
    store = open_store(full_every=4, keep_versions=8)
    manifests = publish(store, *range(6))
    assert [manifest.kind for manifest in manifests] == ["full", "delta", "delta", "delta", "full", "delta"]
    assert [manifest.base.version for manifest in manifests if manifest.base] == [0, 0, 0, 4]
    assert all(
        manifest.num_stored_bytes < 0.15 * manifest.num_bytes for manifest in manifests if manifest.base
    )
    for version in range(6):
        check_holds(store, version)
        assert load_tokenizer(store.version_folder(version)).vocab_size == 103


def test_changes_against_the_version_before_are_a_chain(open_store: MakeStore) -> None:
    store = open_store(full_every=4, keep_versions=8, delta_base="previous")
    manifests = publish(store, *range(6))
    assert [manifest.depth for manifest in manifests] == [0, 1, 2, 3, 0, 1]
    for version in range(6):
        check_holds(store, version)


@pytest.mark.parametrize("delta_base", ["full", "previous"])
def test_what_kept_versions_build_on_is_kept_with_them(open_store: MakeStore, delta_base: str) -> None:
    store = open_store(full_every=5, keep_versions=2, delta_base=delta_base)
    kept = []
    for version in range(8):
        publish(store, version)
        kept.append(store.list_versions())
        for each in kept[-1]:
            check_holds(store, each)
    between = {"full": [0, 3, 4], "previous": [0, 1, 2, 3, 4]}[delta_base]
    assert kept[4] == between
    assert kept[5] == sorted({*between, 5} - ({3} if delta_base == "full" else set()))
    assert kept[7] == [5, 6, 7]


@pytest.mark.parametrize(("base_values", "is_held"), [("host", True), ("files", False)])
def test_the_bases_values_are_in_memory_or_not_as_asked(
    open_store: MakeStore, base_values: str, is_held: bool
) -> None:
    store = open_store(base_values=base_values)
    manifests = publish(store, 0, 1, 2)
    assert [manifest.kind for manifest in manifests] == ["full", "delta", "delta"]
    assert bool(held_tensors(str(store.folder.resolve()), 0)) == is_held
    for version in range(3):
        check_holds(store, version)


@pytest.mark.parametrize("delta_base", ["full", "previous"])
def test_a_restarted_trainer_goes_on_with_deltas(open_store: MakeStore, delta_base: str) -> None:
    publish(open_store(delta_base=delta_base), 0, 1)
    again = open_store(delta_base=delta_base)
    first = (again.version_folder(1) / MANIFEST_FILE).read_bytes()
    publish(again, 1)
    assert (again.version_folder(1) / MANIFEST_FILE).read_bytes() == first
    (manifest,) = publish(again, 2)
    assert manifest.kind == "delta" and manifest.num_stored_bytes < 0.15 * manifest.num_bytes
    check_holds(again, 2)


def test_weights_that_are_there_are_not_written_again(
    open_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    publish(store, 0, 1)

    def fail(*rest: object) -> None:
        raise AssertionError("a file was opened for writing")

    monkeypatch.setattr(sink, "VersionFile", fail)
    publish(store, 1)
    with pytest.raises(AssertionError, match="opened for writing"):
        store.publish(engine_at(5), version=1, step=1)


def test_a_delta_whose_base_is_torn_is_replaced_by_a_sound_version(open_store: MakeStore) -> None:
    store = open_store()
    publish(store, 0, 1)
    path = next(store.version_folder(0).glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(WeightsError, match="is torn"):
        store.reference(1)
    restarted = open_store()
    (manifest,) = publish(restarted, 1)
    assert Encoding.RAW in {entry.encoding for entry in manifest.tensors.values()}
    check_holds(restarted, 1)


def test_without_its_base_a_version_is_full(open_store: MakeStore) -> None:
    publish(open_store(), 0, 1)
    store = open_store()
    for path in store.version_folder(0).iterdir():
        path.unlink()
    (manifest,) = publish(store, 2)
    assert manifest.kind == "full"
    check_holds(store, 2)


def test_a_base_of_another_contract_or_run_is_none(open_store: MakeStore) -> None:
    store = open_store()
    publish(store, 0)
    for changes in ({"contract": "c1"}, {"run_id": "other"}):
        other = dataclasses.replace(store, **changes)  # type: ignore[arg-type]
        (manifest,) = publish(other, 1)
        assert manifest.kind == "full"


def test_going_back_publishes_a_number_anew(open_store: MakeStore) -> None:
    """After a roll back the versions beyond belong to nobody, and what was held of them is no base."""
    store = open_store(full_every=3, keep_versions=4)
    publish(store, 0, 1, 2, 3, 4)
    store.publish(engine_at(7), version=2, step=2)
    assert store.list_versions() == [0, 1, 2]
    assert manifest_of(store, 2).num_stored_bytes < 0.3 * manifest_of(store, 2).num_bytes
    (manifest,) = publish(store, 3)
    assert manifest.kind == "full"
    (manifest,) = publish(store, 4)
    assert manifest.base is not None and manifest.base.version == 3
    check_holds(store, 4)


KILLED = """
import os, signal, sys
from pathlib import Path
from forklight_trainer.publishing.sink import TensorSink
from services.trainer.tests.test_publish_deltas import engine_at, make_store

store = make_store(Path(sys.argv[1]))
store.publish(engine_at(0), version=0, step=0)
store.publish(engine_at(1), version=1, step=1)
put, number = TensorSink.put, 0

def put_some(self, name, tensor):
    global number
    number += 1
    if number == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    put(self, name, tensor)

TensorSink.put = put_some
store.publish(engine_at(2), version=2, step=2)
"""


def test_a_trainer_killed_while_it_writes_a_delta_goes_on(open_store: MakeStore) -> None:
    store = open_store()
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(store.folder)], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == -signal.SIGKILL
    assert store.list_versions() == [0, 1]
    assert any(path.name.startswith(".v00000002") for path in store.folder.iterdir())
    (manifest,) = publish(store, 2)
    assert manifest.kind == "delta"
    for version in range(3):
        check_holds(store, version)
    assert not any(path.name.startswith(".") for path in store.folder.iterdir())


def test_a_full_disk_leaves_the_versions_before(
    open_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(delta_base="previous")
    publish(store, 0, 1)

    def fail(number: int, data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full, pytest.raises(BusyError, match="free disk space"):
        full.setattr(os, "write", fail)
        publish(store, 2)
    assert store.list_versions() == [0, 1]
    (manifest,) = publish(store, 2)
    assert manifest.kind == "delta"
    check_holds(store, 2)


def test_a_disk_that_fills_up_under_a_writing_thread_leaves_nothing(
    open_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many tensors as fit are written; the same attempt succeeds once there is room."""
    store, write, threads = open_store(), os.write, set()

    def fill_up(number: int, data: memoryview) -> int:
        threads.add(threading.current_thread().name.partition("_")[0])
        if len(data) > 5000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(number, data)

    monkeypatch.setattr(work, "LARGE_BYTES", 0)
    with monkeypatch.context() as full, pytest.raises(BusyError, match="free disk space"):
        full.setattr(os, "write", fill_up)
        publish(store, 0)
    assert threads == {"write"}
    assert list(store.folder.iterdir()) == []
    (manifest,) = publish(store, 0)
    assert manifest.kind == "full"
    check_holds(store, 0)
    (manifest,) = publish(store, 1)
    assert manifest.kind == "delta"
    check_holds(store, 1)


def test_parity_is_measured_with_a_delta_as_well(open_store: MakeStore) -> None:
    from forklight_trainer.publishing.probe import _probe_pack, probe_ids

    store = open_store()
    publish(store, 0, 1)
    engine, pack = engine_at(3), _probe_pack(probe_ids(103))
    scored = engine.score_version(store.version_folder(1), pack, 1.0)
    assert scored is not None
    assert torch.equal(scored, engine_at(1).score(pack, 1.0).logprobs_T)
    assert store.list_versions() == [0, 1]
    next(store.version_folder(1).glob("*.bin")).unlink()
    assert engine_at(4).score_version(store.version_folder(1), pack, 1.0) is None


def test_a_probe_that_is_not_finite_writes_nothing(open_store: MakeStore) -> None:
    from forklight_core.errors import PreconditionError

    store, model = open_store(), tiny_model(0)
    with torch.no_grad():
        model.lm_head.weight[5].fill_(torch.inf)
    with pytest.raises(PreconditionError, match="not finite"):
        store.publish(TorchEngine(model, ADAM, dtype=torch.bfloat16), version=0, step=0)
    assert list(store.folder.parent.rglob("*.safetensors")) == []


def test_versions_are_mirrored_in_a_store(open_store: MakeStore, tmp_path: Path) -> None:
    pytest.importorskip("obstore", reason="the extra s3 is not installed")
    url = f"file://{tmp_path}/bucket"
    store = open_store(url=url, full_every=3, keep_versions=2)
    references = [store.publish(engine_at(v), version=v, step=v) for v in range(5)]
    bucket = tmp_path / "bucket" / RUN
    assert references[4].manifest.startswith(f"{url}/{RUN}/v00000004-")
    manifests = {v: manifest_of(store, v) for v in store.list_versions()}
    assert {path.name for path in bucket.iterdir() if any(path.iterdir())} == {
        manifest.mirror.rpartition("/")[2] for manifest in manifests.values()
    }
    assert sorted(manifests) == [3, 4]
    for version, manifest in manifests.items():
        copy = bucket / manifest.mirror.rpartition("/")[2]
        names = {path.name for path in store.version_folder(version).iterdir()}
        assert {path.name for path in copy.iterdir()} == names
        for name in names:
            assert (copy / name).read_bytes() == (store.version_folder(version) / name).read_bytes()
    base = manifests[4].base
    assert base is not None and base.mirror == manifests[3].mirror


def test_a_version_that_is_gone_from_the_store_is_written_again(
    open_store: MakeStore, tmp_path: Path
) -> None:
    pytest.importorskip("obstore", reason="the extra s3 is not installed")
    store = open_store(url=f"file://{tmp_path}/bucket")
    first = store.publish(engine_at(0), version=0, step=0)
    assert store.publish(engine_at(0), version=0, step=0) == first
    (Path(first.manifest.removeprefix("file://"))).unlink()
    with pytest.raises(WeightsError, match="publish it again"):
        store.reference(0)
    again = store.publish(engine_at(0), version=0, step=0)
    assert again.manifest != first.manifest
    assert json.loads(Path(again.manifest.removeprefix("file://")).read_bytes())["version"] == 0


def test_another_place_of_the_store_begins_with_a_full_version(open_store: MakeStore, tmp_path: Path) -> None:
    pytest.importorskip("obstore", reason="the extra s3 is not installed")
    publish(open_store(), 0)
    (first,) = publish(open_store(url=f"file://{tmp_path}/one"), 1)
    (second,) = publish(open_store(url=f"file://{tmp_path}/two"), 2)
    (third,) = publish(open_store(url=f"file://{tmp_path}/two"), 3)
    assert [first.kind, second.kind, third.kind] == ["full", "full", "delta"]


def test_nothing_is_held_for_versions_that_are_all_full(open_store: MakeStore) -> None:
    store = open_store(full_every=1)
    manifests = publish(store, 0, 1)
    assert [manifest.kind for manifest in manifests] == ["full", "full"]
    assert not held._HELD.get((str(store.folder.resolve()), 0))
