"""Blobs as files of one folder: on one machine, or on a volume every pod mounts.

A blob is written beside its place and renamed, so a reader sees all of it or nothing.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from forklight_core.blobs.port import BlobRef, BlobStats, blob_ref, check_blob_id, verify_blob
from forklight_core.errors import BusyError, ConfigError, NotFoundError, UnavailableError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class FolderBlobStore:
    """blobs/ab/cdef... : two hex digits a folder, so that no folder grows large."""

    def __init__(self, folder: Path, *, sync: bool = False) -> None:
        self._folder = folder
        self._sync = sync
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"blob folder {folder} cannot be made: {error.strerror}; let this process's user write "
                f"there, or point FORKLIGHT_BLOBS_URL elsewhere"
            ) from error

    def put(self, data: bytes) -> BlobRef:
        reference = blob_ref(data)
        place = self._place(reference.id)
        try:
            if place.exists() and place.stat().st_size == reference.size_bytes:
                return reference
            self._write(place, data)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise BusyError(
                    f"no room for a blob of {len(data)} bytes in {self._folder}: {error.strerror}. "
                    "Free space there or point FORKLIGHT_BLOBS_URL elsewhere; the write is tried again."
                ) from error
            raise self._refusal("write", error) from error
        return reference

    def _write(self, place: Path, data: bytes) -> None:
        place.parent.mkdir(exist_ok=True)
        handle, name = tempfile.mkstemp(dir=place.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                if self._sync:
                    file.flush()
                    os.fsync(file.fileno())
            Path(name).replace(place)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def get(self, blob_id: str) -> bytes:
        place = self._place(blob_id)
        try:
            data = place.read_bytes()
        except FileNotFoundError:
            raise NotFoundError(
                f"blob {blob_id} is not in {self._folder}: it was deleted or never written"
            ) from None
        except OSError as error:
            raise self._refusal("read", error) from error
        return verify_blob(blob_id, data, str(place))

    def exists(self, blob_id: str) -> bool:
        try:
            return self._place(blob_id).exists()
        except OSError as error:
            raise self._refusal("look", error) from error

    def delete(self, blob_id: str) -> None:
        try:
            self._place(blob_id).unlink(missing_ok=True)
        except OSError as error:
            raise self._refusal("delete", error) from error

    def _refusal(self, what: str, error: OSError) -> UnavailableError:
        return UnavailableError(
            f"blob folder {self._folder} refused a {what}: {error.strerror}; let this process's user in, or "
            f"mend the volume: it is tried again"
        )

    def stats(self) -> BlobStats:
        sizes = [entry.stat().st_size for entry in self._folder.glob("??/[!.]*")]
        return BlobStats(num_blobs=len(sizes), num_bytes=sum(sizes))

    def _place(self, blob_id: str) -> Path:
        digest = check_blob_id(blob_id)
        return self._folder / digest[:2] / digest[2:]
