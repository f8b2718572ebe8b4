"""Longer evidence beside the chain: the first bytes of a text, as blobs in a folder."""

from __future__ import annotations

from pathlib import Path

from forklight_core.blobs.folder import FolderBlobStore
from forklight_core.blobs.port import blob_ref
from forklight_core.errors import NotFoundError

MOST_BYTES = 64 * 1024
CUT = b"\n[... cut: %d bytes in all]"


def bound(text: str, most_bytes: int = MOST_BYTES) -> bytes:
    """The bytes that are kept of a text, its cut marked."""
    data = text.encode("utf-8", "replace")
    if len(data) <= most_bytes:
        return data
    mark = CUT % len(data)
    head = data[: most_bytes - len(mark)].decode("utf-8", "ignore").encode()
    return head + mark


def reference_of(data: bytes) -> str:
    """The name of evidence."""
    return blob_ref(data).id


class EvidenceStore:
    """A folder of blobs, made with the first of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, data: bytes) -> None:
        """Keep it; once is enough. BusyError or OSError where the disk does not take it."""
        FolderBlobStore(self._folder).put(data)

    def get(self, reference: str) -> bytes:
        """The bytes, proven."""
        if not self._folder.is_dir():
            raise NotFoundError(f"evidence {reference} is not in {self._folder}: nothing was ever kept there")
        return FolderBlobStore(self._folder).get(reference)
