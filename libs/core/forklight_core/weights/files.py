"""Writing the files of a version: whole tensors as safetensors, or records of changes one after another.

Nothing is flushed to the disk here: whoever reads a version proves every byte, so a file that power loss tore
is refused like any other torn file.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType

import blake3
import numpy as np

from forklight_core.errors import BusyError
from forklight_core.weights.layout import HEAD_BYTES, LENGTH, OPENING, WHOLE_FILE, build_head, head_line
from forklight_core.weights.manifest import FileEntry, TensorEntry
from forklight_core.weights.reading import PIECE_BYTES, Layer, TensorProof, VersionReader

LARGEST_FILE_BYTES = 4 << 30
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
SAFETENSORS = ".safetensors"


class VersionFile:
    """A file that tensors are appended to. A safetensors file gets its head at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = self._head_bytes = HEAD_BYTES if path.suffix == SAFETENSORS else 0
        self._lines: list[str] = []
        self._next: tuple[TensorEntry, str] | None = None
        self._num_line_bytes = LENGTH.size + len(OPENING) + 1
        self._number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.lseek(self._number, self.position, os.SEEK_SET)

    def __enter__(self) -> VersionFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file, whole or not."""
        os.close(self._number)

    def has_room(self, entry: TensorEntry, largest_bytes: int) -> bool:
        """Whether the tensor may go into this file; an empty one takes any."""
        if self.position == self._head_bytes:
            return True
        is_small = self.position + entry.num_bytes <= largest_bytes
        return is_small and self._num_line_bytes + len(self._line_of(entry)) <= HEAD_BYTES

    def begin(self, entry: TensorEntry) -> int:
        """A tensor follows; its place in the file."""
        if self._head_bytes:
            self._lines.append(self._line_of(entry))
            self._num_line_bytes += len(self._lines[-1])
        return self.position

    def write(self, data: memoryview | bytes) -> None:
        """The next bytes of the tensor."""
        rest = memoryview(data)
        try:
            while rest:
                num_written = os.write(self._number, rest)
                self.position += num_written
                rest = rest[num_written:]
        except OSError as error:
            if error.errno in NO_ROOM:
                raise BusyError(
                    f"no room to write {self.path}: {error.strerror}; free disk space, it is tried again"
                ) from error
            raise

    def finish(self) -> FileEntry:
        """All tensors are in."""
        if self._head_bytes:
            os.pwrite(self._number, build_head(self._lines), 0)
        return describe_file(self.path)

    def _line_of(self, entry: TensorEntry) -> str:
        """Its part of the head, made once."""
        if self._next is None or self._next[0] is not entry:
            self._next = entry, head_line(entry, self.position - self._head_bytes)
        return self._next[1]


def describe_file(path: Path) -> FileEntry:
    """A file as manifests name it."""
    if path.suffix != SAFETENSORS:
        return FileEntry(file=path.name, size_bytes=path.stat().st_size)
    with path.open("rb") as file:
        head_bytes = LENGTH.size + LENGTH.unpack(file.read(LENGTH.size))[0]
        file.seek(0)
        head_hash = blake3.blake3(file.read(head_bytes)).hexdigest()
    return FileEntry(
        file=path.name, size_bytes=path.stat().st_size, head_bytes=head_bytes, head_hash=head_hash
    )


def write_whole(layers: tuple[Layer, ...], folder: Path) -> dict[str, Path]:
    """Write every tensor of a version, proven, into safetensors files; says which file each is in."""
    reader, buffer = VersionReader(layers), np.empty(PIECE_BYTES, np.uint8)
    rest = sorted(reader.entries, key=lambda entry: entry.name)
    places: dict[str, Path] = {}
    while rest:
        path = folder / WHOLE_FILE.format(rank=0, number=len(set(places.values())) + 1)
        with VersionFile(path) as file:
            while rest and file.has_room(rest[0], LARGEST_FILE_BYTES):
                entry = rest.pop(0)
                file.begin(entry)
                proof = TensorProof(entry)
                for _, piece in reader.open(entry.name).pieces(buffer):
                    proof.take(piece)
                    file.write(piece.data)
                proof.check()
                places[entry.name] = path
            file.finish()
    return places
