"""Immutable payloads by reference: port, local folder, S3-compatible store, memory."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlparse

from forklight_core.blobs.folder import FolderBlobStore
from forklight_core.blobs.memory import MemoryBlobStore
from forklight_core.blobs.port import BlobRef, BlobStats, BlobStore, blob_ref
from forklight_core.errors import ConfigError

__all__ = [
    "BlobRef",
    "BlobStats",
    "BlobStore",
    "FolderBlobStore",
    "MemoryBlobStore",
    "blob_ref",
    "open_blob_store",
]

_MEMORY: dict[str, MemoryBlobStore] = {}


def open_blob_store(url: str) -> BlobStore:
    """`file:///path`, a bare path, `s3://bucket/prefix`, or `memory://name` (shared inside one process)."""
    scheme, _, rest = url.partition("://")
    if not _ or scheme == "file":
        return FolderBlobStore(Path(unquote(urlparse(url).path) if _ else url))
    if scheme == "memory":
        return _MEMORY.setdefault(rest, MemoryBlobStore())
    if scheme == "s3":
        from forklight_core.blobs.s3 import open_s3_store

        return open_s3_store(url)
    raise ConfigError(
        f"blob store {url!r} is not known: use file:///path, s3://bucket/prefix or memory://name"
    )
