"""Copies of versions in a pod's own folder: fetched once, bounded, made anew when torn, sent or read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from forklight.v1 import types_pb2
from forklight_core.errors import BusyError, UnavailableError, WeightsError
from forklight_core.runfile.sections.publication import PublicationSection
from forklight_core.weights.manifest import MANIFEST_FILE, encode_manifest, parse_manifest
from forklight_core.weights.objects import ObjectFolder
from forklight_core.weights.reading import verify_tensors
from forklight_model.file_sending import FileReceiver
from forklight_rollout.settings import RolloutSettings
from forklight_rollout.weights import cache as cache_module
from forklight_rollout.weights.arrival import open_source
from forklight_rollout.weights.cache import WeightsCache
from forklight_rollout.weights.manifest import PublishedWeights
from forklight_rollout.weights.source import CachedSource, SharedFolder
from services.rollout.tests.versions import RUN_ID, verify, write_delta, write_manifest, write_version

pytest.importorskip("obstore", reason="the extra s3 is not installed")
OLD = {"a": torch.arange(1000, dtype=torch.float32), "b": torch.ones(3, 4)}
NEW = {"a": OLD["a"] + (torch.arange(1000) % 50 == 0), "b": OLD["b"]}


@dataclass
class Store:
    """A bucket with versions as a trainer mirrors them; `announce` gives what pods are told."""

    root: Path
    fetched: list[str] = field(default_factory=list)

    def full(self, version: int) -> types_pb2.WeightsRef:
        return self._mirror(write_version(self.root / "bucket", OLD, {}, version))

    def delta(self, base: types_pb2.WeightsRef, version: int) -> types_pb2.WeightsRef:
        local = replace_url(base)
        reference = write_delta(verify(local), NEW, OLD, version)
        return self._mirror(reference, base)

    def _mirror(
        self, made: types_pb2.WeightsRef, base: types_pb2.WeightsRef | None = None
    ) -> types_pb2.WeightsRef:
        """The manifest says where the version is; so does what is announced."""
        folder = Path(made.manifest).parent
        manifest = parse_manifest((folder / MANIFEST_FILE).read_bytes(), folder)
        (folder / "tokenizer.json").write_text("{}")
        if base is not None and manifest.base is not None:
            named = replace(manifest.base, mirror=base.manifest.removesuffix(f"/{MANIFEST_FILE}"))
            manifest = replace(manifest, base=named)
        made = write_manifest(folder, replace(manifest, mirror=f"file://{folder}"))
        return types_pb2.WeightsRef(
            version=made.version, manifest=f"file://{made.manifest}", manifest_id=made.manifest_id
        )


def replace_url(reference: types_pb2.WeightsRef) -> types_pb2.WeightsRef:
    """By its path."""
    path = reference.manifest.removeprefix("file://")
    return types_pb2.WeightsRef(version=reference.version, manifest=path, manifest_id=reference.manifest_id)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    made, fetch = Store(tmp_path), ObjectFolder.fetch

    def noted(self: ObjectFolder, name: str, target: Path) -> None:
        made.fetched.append(f"{target.parent.name[:9]}/{name}")
        fetch(self, name, target)

    monkeypatch.setattr(ObjectFolder, "fetch", noted)
    return made


@pytest.fixture
def source(tmp_path: Path) -> CachedSource:
    return CachedSource(cache=WeightsCache(folder=tmp_path / "cache"))


def copies(source: CachedSource) -> list[str]:
    return sorted(path.name[:9] for path in source.cache.folder.iterdir())


def require(weights: PublishedWeights, tensors: dict[str, torch.Tensor]) -> None:
    from forklight_rollout.adapters.published import read_tensors

    found = read_tensors(weights)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_a_new_pod_fetches_the_full_version_and_the_delta(store: Store, source: CachedSource) -> None:
    reference = store.delta(store.full(0), 1)
    weights = source.open(reference, RUN_ID)
    require(weights, NEW)
    assert weights.folder.parent == source.cache.folder
    assert (weights.folder / "tokenizer.json").exists() and weights.tokenizer_hash
    assert store.fetched == ["v00000001/changes-r0-1.bin", "v00000000/model-r0-1.safetensors"]


def test_what_is_there_is_not_fetched_again(store: Store, source: CachedSource) -> None:
    base = store.full(0)
    require(source.open(base, RUN_ID), OLD)
    second, third = store.delta(base, 1), store.delta(base, 2)
    require(source.open(second, RUN_ID), NEW)
    require(source.open(second, RUN_ID), NEW)
    require(source.open(third, RUN_ID), NEW)
    assert [name for name in store.fetched if name.endswith(".safetensors")] == [
        "v00000000/model-r0-1.safetensors"
    ]
    assert len(store.fetched) == 3


def test_copies_that_nobody_needs_are_removed(store: Store, source: CachedSource) -> None:
    base = store.full(0)
    for version in (1, 2, 3):
        source.open(store.delta(base, version), RUN_ID)
    assert copies(source) == ["v00000000", "v00000002", "v00000003"]
    newer = store.full(4)
    source.open(newer, RUN_ID)
    assert copies(source) == ["v00000000", "v00000003", "v00000004"]
    source.open(store.delta(newer, 5), RUN_ID)
    assert copies(source) == ["v00000004", "v00000005"]


def test_copies_stay_while_there_is_room(store: Store, tmp_path: Path) -> None:
    source = CachedSource(cache=WeightsCache(folder=tmp_path / "cache", most_bytes=2**30))
    for version in range(4):
        source.open(store.full(version), RUN_ID)
    assert len(copies(source)) == 4


def test_a_torn_copy_is_made_anew(store: Store, source: CachedSource) -> None:
    reference = store.delta(store.full(0), 1)
    weights = source.open(reference, RUN_ID)
    source.discard(weights)  # sound: an engine refused it for another reason
    assert len(copies(source)) == 2
    path = weights.bases[0].folder / weights.bases[0].manifest.files[0].file
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(WeightsError, match="is torn"):
        verify_tensors(weights.layers)
    source.discard(weights)
    assert copies(source) == []
    require(source.open(reference, RUN_ID), NEW)


def test_a_number_published_twice_is_two_copies(store: Store, source: CachedSource, tmp_path: Path) -> None:
    first = store.full(0)
    source.open(first, RUN_ID)
    other = Store(tmp_path / "other").full(0)
    folder = Path(replace_url(other).manifest).parent
    manifest = parse_manifest((folder / MANIFEST_FILE).read_bytes(), folder)
    (folder / MANIFEST_FILE).write_bytes(encode_manifest(replace(manifest, step=9)))
    announced = verify_announced(folder, other.manifest)
    assert source.open(announced, RUN_ID).manifest.step == 9
    assert source.open(first, RUN_ID).manifest.step == 0


def verify_announced(folder: Path, url: str) -> types_pb2.WeightsRef:
    from forklight_core.weights.manifest import manifest_id

    data = (folder / MANIFEST_FILE).read_bytes()
    return types_pb2.WeightsRef(version=0, manifest=url, manifest_id=manifest_id(data))


def test_a_version_that_is_gone_is_refused(store: Store, source: CachedSource) -> None:
    base = store.full(0)
    reference = store.delta(base, 1)
    Path(replace_url(base).manifest).unlink()
    with pytest.raises(WeightsError, match="version 0 is not in file://.* any more"):
        source.open(reference, RUN_ID)
    Path(replace_url(reference).manifest).with_name("changes-r0-1.bin").unlink()
    with pytest.raises(WeightsError, match="version 1 is not in"):
        CachedSource(cache=WeightsCache(folder=source.cache.folder / "new")).open(reference, RUN_ID)


def test_a_full_disk_is_no_torn_version(
    store: Store, source: CachedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = store.full(0)
    monkeypatch.setattr(cache_module, "SPARE_BYTES", 2**62)
    with pytest.raises(BusyError, match="FORKLIGHT_WEIGHTS_CACHE a larger disk"):
        source.open(reference, RUN_ID)


@dataclass
class Sent:
    """The other end of a trainer that sends, or does not."""

    root: Path
    is_broken: bool = False
    sessions: list[str] = field(default_factory=list)

    def receive(self, session: str, paths: Sequence[tuple[Path, int]]) -> None:
        self.sessions.append(session)
        for path, size_bytes in paths:
            data = next(self.root.rglob(path.name)).read_bytes()
            assert len(data) == size_bytes
            path.write_bytes(data[: len(data) // 2] if self.is_broken else data)
        if self.is_broken:
            raise UnavailableError("the trainer is gone")


def test_a_version_that_is_sent_is_not_read(store: Store, tmp_path: Path) -> None:
    """By path: base and small files are the trainer's, the version's own files come over the wire."""
    base = replace_url(store.full(0))
    sent = Sent(tmp_path / "bucket" / "v00000001")
    source = CachedSource(cache=WeightsCache(folder=tmp_path / "cache"), receiver=sent)
    reference = write_delta(verify(base), NEW, OLD, 1)
    weights = source.open(reference, RUN_ID)
    require(weights, NEW)
    assert sent.sessions == [reference.manifest_id]
    assert weights.folder.parent == source.cache.folder
    assert weights.bases[0].folder == Path(base.manifest).parent
    assert (weights.folder / "tokenizer.json").exists()


@pytest.mark.parametrize("by_url", [True, False])
def test_what_was_not_sent_to_the_end_is_read(store: Store, tmp_path: Path, by_url: bool) -> None:
    reference = store.full(0)
    reference = reference if by_url else replace_url(reference)
    sent = Sent(tmp_path / "bucket", is_broken=True)
    source = CachedSource(cache=WeightsCache(folder=tmp_path / "cache"), receiver=sent)
    weights = source.open(reference, RUN_ID)
    require(weights, OLD)
    assert sent.sessions == [reference.manifest_id]
    assert (weights.folder.parent == source.cache.folder) == by_url


def test_a_pod_copies_only_what_is_not_shared(tmp_path: Path) -> None:
    settings = RolloutSettings(
        run_file=tmp_path / "run.toml",
        run_folder=tmp_path,
        run_id=RUN_ID,
        redis_url="",
        blobs_url="",
        buffer_address="",
        pod="pod-7",
    )
    assert isinstance(open_source(settings, PublicationSection()), SharedFolder)
    source = open_source(settings, PublicationSection(url="s3://bucket/prefix"))
    assert isinstance(source, CachedSource)
    assert (source.cache.folder, source.receiver) == (tmp_path / "weights-pod-7", None)
    sent = PublicationSection(transport="broadcast", rendezvous="trainer:7070", broadcast_pods=2)
    elsewhere = settings.model_copy(update={"weights_cache": "/cache"})
    source = open_source(elsewhere, sent)
    assert isinstance(source, CachedSource)
    assert source.cache.folder == Path("/cache") and isinstance(source.receiver, FileReceiver)
