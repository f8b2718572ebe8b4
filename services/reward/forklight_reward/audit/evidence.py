"""Longer evidence beside the chain: the first bytes of a text, named by their sha256."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

from forklight_core.errors import DataLossError, InvalidInputError, NotFoundError

MOST_BYTES = 64 * 1024
CUT = b"\n[... cut: %d bytes in all]"
_REFERENCE = re.compile(r"sha256:([0-9a-f]{64})")


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
    return "sha256:" + hashlib.sha256(data).hexdigest()


class EvidenceStore:
    """FOLDER/ab/cdef..."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, data: bytes) -> None:
        """Keep it; once is enough."""
        place = self._place(reference_of(data))
        if place.exists():
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=place.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(name).replace(place)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def get(self, reference: str) -> bytes:
        """The bytes, proven."""
        place = self._place(reference)
        try:
            data = place.read_bytes()
        except FileNotFoundError:
            raise NotFoundError(
                f"evidence {reference} is not in {self._folder}: it was never kept, or removed"
            ) from None
        if reference_of(data) != reference:
            raise DataLossError(f"evidence {reference} in {place} is not what was written")
        return data

    def _place(self, reference: str) -> Path:
        match = _REFERENCE.fullmatch(reference)
        if match is None:
            raise InvalidInputError(f"{reference!r} names no evidence: expected 'sha256:' and 64 hex digits")
        return self._folder / match[1][:2] / match[1][2:]
