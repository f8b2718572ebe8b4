"""The port for immutable, content-addressed blobs. Synchronous: async code uses asyncio.to_thread."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

import blake3

from forklight_core.errors import DataLossError, InvalidInputError

BLOB_ID = re.compile(r"b3:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobRef:
    """Name and size of a blob; the name is the hash of its bytes."""

    id: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobStats:
    """What a store holds."""

    num_blobs: int
    num_bytes: int


class BlobStore(Protocol):
    """Where payloads live. Writing the same bytes twice is harmless."""

    def put(self, data: bytes) -> BlobRef:
        """Store bytes; BusyError when there is no room."""
        ...

    def get(self, blob_id: str) -> bytes:
        """The bytes, verified; NotFoundError or DataLossError."""
        ...

    def exists(self, blob_id: str) -> bool:
        """Whether the blob is there (not whether it is sound)."""
        ...

    def delete(self, blob_id: str) -> None:
        """Forget the blob; nothing happens when it is not there."""
        ...

    def stats(self) -> BlobStats:
        """Count what is stored."""
        ...


def blob_ref(data: bytes) -> BlobRef:
    """The reference these bytes have."""
    return BlobRef(id="b3:" + blake3.blake3(data).hexdigest(), size_bytes=len(data))


def check_blob_id(blob_id: str) -> str:
    """Return the hex digest of a blob id, or refuse it."""
    if not BLOB_ID.fullmatch(blob_id):
        raise InvalidInputError(f"{blob_id!r} is not a blob id: expected 'b3:' and 64 hex digits")
    return blob_id[3:]


def verify_blob(blob_id: str, data: bytes, where: str) -> bytes:
    """Return the bytes when they are what the id says."""
    found = blob_ref(data).id
    if found != blob_id:
        raise DataLossError(
            f"blob {blob_id} in {where} is corrupt: its {len(data)} bytes hash to {found}. "
            "The sample that needs it ends as infra_failed; check the disk or the store."
        )
    return data
