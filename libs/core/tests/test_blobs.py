"""Blob stores keep bytes, notice damage and say when there is no room."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from forklight_core.blobs import BlobStore, FolderBlobStore, MemoryBlobStore, blob_ref, open_blob_store
from forklight_core.blobs.s3 import ObjectBlobStore
from forklight_core.errors import BusyError, ConfigError, DataLossError, InvalidInputError, NotFoundError


@pytest.fixture(params=["folder", "memory", "object"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "folder":
        return FolderBlobStore(tmp_path / "blobs")
    if request.param == "memory":
        return MemoryBlobStore()
    from obstore.store import MemoryStore

    return ObjectBlobStore(MemoryStore(), "obstore memory")


def test_bytes_come_back_when_they_were_put(store: BlobStore) -> None:
    reference = store.put(b"hello" * 1000)
    assert store.get(reference.id) == b"hello" * 1000
    assert store.exists(reference.id)
    assert store.put(b"hello" * 1000) == reference
    assert (store.stats().num_blobs, store.stats().num_bytes) == (1, 5000)
    store.delete(reference.id)
    store.delete(reference.id)
    with pytest.raises(NotFoundError):
        store.get(reference.id)


def test_bad_id_is_refused_before_any_path_is_made(store: BlobStore) -> None:
    with pytest.raises(InvalidInputError, match="blob id"):
        store.get("b3:../../etc/passwd")


def test_damaged_file_is_a_data_loss_error(tmp_path: Path) -> None:
    store = FolderBlobStore(tmp_path)
    reference = store.put(b"precious")
    place = next(tmp_path.glob("??/*"))
    place.write_bytes(b"precioux")
    with pytest.raises(DataLossError, match=reference.id):
        store.get(reference.id)


def test_full_disk_is_a_busy_error_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderBlobStore(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(BusyError, match="no room"):
        store.put(b"data")
    assert not [entry for entry in tmp_path.rglob("*") if entry.is_file()]


def test_torn_blob_is_written_again_when_its_size_is_wrong(tmp_path: Path) -> None:
    store = FolderBlobStore(tmp_path)
    reference = store.put(b"whole")
    next(tmp_path.glob("??/*")).write_bytes(b"wh")
    store.put(b"whole")
    assert store.get(reference.id) == b"whole"


def test_url_picks_the_store(tmp_path: Path) -> None:
    by_url = open_blob_store(f"file://{tmp_path}/with%20space")
    by_url.put(b"x")
    assert (tmp_path / "with space").is_dir()
    assert open_blob_store("memory://one") is open_blob_store("memory://one")
    with pytest.raises(ConfigError, match="ftp"):
        open_blob_store("ftp://host/path")


def test_reference_is_a_function_of_the_bytes() -> None:
    assert blob_ref(b"") == blob_ref(b"")
    assert blob_ref(b"a").id != blob_ref(b"b").id
