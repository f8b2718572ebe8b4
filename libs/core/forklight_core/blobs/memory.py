"""Blobs in this process's memory: for tests and for everything in one process."""

from __future__ import annotations

from forklight_core.blobs.port import BlobRef, BlobStats, blob_ref, check_blob_id, verify_blob
from forklight_core.errors import NotFoundError


class MemoryBlobStore:
    """A dictionary with the store's manners."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    def put(self, data: bytes) -> BlobRef:
        reference = blob_ref(data)
        self._blobs[reference.id] = data
        return reference

    def get(self, blob_id: str) -> bytes:
        check_blob_id(blob_id)
        if blob_id not in self._blobs:
            raise NotFoundError(f"blob {blob_id} is not in memory: it was deleted or never written")
        return verify_blob(blob_id, self._blobs[blob_id], "memory")

    def exists(self, blob_id: str) -> bool:
        return blob_id in self._blobs

    def delete(self, blob_id: str) -> None:
        self._blobs.pop(blob_id, None)

    def stats(self) -> BlobStats:
        return BlobStats(num_blobs=len(self._blobs), num_bytes=sum(map(len, self._blobs.values())))
