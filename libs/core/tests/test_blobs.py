"""Blob stores keep bytes, notice damage and say when there is no room."""

from __future__ import annotations

import errno
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from forklight_core.blobs import BlobStore, FolderBlobStore, MemoryBlobStore, blob_ref, open_blob_store
from forklight_core.blobs.s3 import ObjectBlobStore
from forklight_core.errors import (
    BusyError,
    ConfigError,
    DataLossError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)


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


def test_a_folder_that_lets_nobody_in_is_told_and_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderBlobStore(tmp_path)
    reference = store.put(b"data")

    def refuse(*_: object, **__: object) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", refuse)
        broken.setattr(Path, "read_bytes", refuse)
        broken.setattr(Path, "unlink", refuse)
        for call in (lambda: store.put(b"more"), lambda: store.get(reference.id)):
            with pytest.raises(UnavailableError, match="Permission denied; let this process's user in"):
                call()
    assert store.get(reference.id) == b"data"


def test_a_bucket_without_rights_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers 403 as S3 does."""

    class Forbidding(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Forbidding)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(UnavailableError, match="refused a write: .*AccessDenied.* the right to it") as caught:
        open_blob_store("s3://bucket/prefix").put(b"data")
    assert "\n" not in str(caught.value)
    server.shutdown()
    server.server_close()


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
