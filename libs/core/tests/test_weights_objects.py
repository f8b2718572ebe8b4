"""Versions in an object store: uploads, downloads that go on, what is not there. Here a local one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forklight_core.errors import NotFoundError, UnavailableError
from forklight_core.weights import objects
from forklight_core.weights.objects import ObjectFolder, is_url, open_objects

pytest.importorskip("obstore", reason="the extra s3 is not installed")


@pytest.fixture
def store(tmp_path: Path) -> ObjectFolder:
    return open_objects(f"file://{tmp_path}/bucket/run", deadline_s=1.0)


def test_a_file_comes_back_as_it_went(store: ObjectFolder, tmp_path: Path) -> None:
    data = os.urandom(1_000_003)
    (tmp_path / "out").write_bytes(data)
    store.upload("v1/a.bin", tmp_path / "out")
    store.upload("v1/manifest.json", b"{}")
    store.fetch("v1/a.bin", tmp_path / "in")
    assert (tmp_path / "in").read_bytes() == data
    assert store.read("v1/manifest.json") == b"{}"
    assert store.has("v1/a.bin") and not store.has("v1/b.bin")
    assert sorted(store.list_files("v1")) == ["v1/a.bin", "v1/manifest.json"]
    assert store.list_folders() == ["v1"]


def test_a_download_goes_on_where_it_broke_off(
    store: ObjectFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "PART_BYTES", 1000)
    data = os.urandom(100_500)
    store.upload("a.bin", data)
    asked: list[int] = []
    whole = ObjectFolder._range

    def broken(self: ObjectFolder, name: str, start: int, size_bytes: int) -> bytes:
        asked.append(start)
        if len(asked) > 40:
            raise UnavailableError("the connection is gone")
        return whole(self, name, start, size_bytes)

    with monkeypatch.context() as breaking, pytest.raises(UnavailableError, match="gone"):
        breaking.setattr(ObjectFolder, "_range", broken)
        store.fetch("a.bin", tmp_path / "in")
    partial = tmp_path / "in.part"
    had = partial.stat().st_size
    assert 0 < had < len(data) and data.startswith(partial.read_bytes())
    again: list[int] = []
    monkeypatch.setattr(
        ObjectFolder, "_range", lambda self, *rest: again.append(rest[1]) or whole(self, *rest)
    )
    store.fetch("a.bin", tmp_path / "in")
    assert (tmp_path / "in").read_bytes() == data and not partial.exists()
    assert min(again) == had // 1000 * 1000


def test_a_longer_rest_of_another_file_does_no_harm(store: ObjectFolder, tmp_path: Path) -> None:
    store.upload("a.bin", b"new")
    (tmp_path / "in.part").write_bytes(b"something older and longer")
    store.fetch("a.bin", tmp_path / "in")
    assert (tmp_path / "in").read_bytes() == b"new"


def test_what_is_not_there_is_said_at_once(store: ObjectFolder, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such object while"):
        store.read("nothing")
    with pytest.raises(NotFoundError, match="no such object while"):
        store.fetch("nothing", tmp_path / "in")
    assert store.list_folders() == []


def test_a_removed_folder_is_gone(store: ObjectFolder) -> None:
    for name in ("v1/a", "v1/b", "v2/a"):
        store.upload(name, b"x")
    store.remove("v1")
    store.remove("v1")
    assert store.list_folders() == ["v2"] or store.list_files() == ["v2/a"]


def test_urls_are_told_from_paths() -> None:
    assert is_url("s3://bucket/prefix") and not is_url("/runs/weights/v0/manifest.json")
