"""Safetensors files that are read piece by piece, with little of them in memory at a time."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open

MAPPED_BYTES = 1 << 23
"""After so many the files are closed: what was read of a mapped file stays this process's until then."""


class MappedFiles:
    """Opened when they are asked for, and again after they were closed."""

    def __init__(self) -> None:
        self._files: dict[Path, safe_open] = {}
        self._num_bytes = 0

    def open(self, path: Path) -> safe_open:
        """What safetensors raises is the caller's to explain."""
        if path not in self._files:
            self._files[path] = safe_open(path, framework="pt")
        return self._files[path]

    def copied(self, num_bytes: int) -> None:
        """So much was read, and no view of it is needed any more."""
        self._num_bytes += num_bytes
        if self._num_bytes > MAPPED_BYTES:
            self.close()

    def close(self) -> None:
        for file in self._files.values():
            file.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self._files.clear()
        self._num_bytes = 0
