"""Files that are whole or absent: written beside their place and renamed; their hash is taken on the way."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import blake3

from forklight_core.errors import BusyError, InvalidInputError, UnavailableError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
WRONG_PLACE = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
PARTIAL = ".partial"
BUFFER_BYTES = 2**20


class WholeFile:
    """Nothing is at `path` before `with` ends well; what was there stays when it does not.

    A pipe or a device is written as it is: a file renamed onto it would take its place.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_lines = 0
        self._digest = blake3.blake3()
        self._is_plain = path.is_file() or not path.exists()
        self._partial = path.with_name(path.name + PARTIAL) if self._is_plain else path

    def __enter__(self) -> WholeFile:
        with named_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._partial.open("wb", buffering=BUFFER_BYTES)
        return self

    def write(self, line: bytes) -> None:
        """Append one line, its end included."""
        with named_errors(self.path):
            self._file.write(line)
        self._digest.update(line)
        self.num_lines += 1

    @property
    def digest(self) -> str:
        """Of everything written so far."""
        return "b3:" + self._digest.hexdigest()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with named_errors(self.path):
                self._file.close()
                if kind is None and self._is_plain:
                    self._partial.replace(self.path)
        finally:
            if self._is_plain:
                self._partial.unlink(missing_ok=True)


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Errors of the system, told with the file and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise BusyError(
                f"{path}: no room on the disk; free some, or write elsewhere, and run again"
            ) from error
        if isinstance(error, WRONG_PLACE):
            raise InvalidInputError(f"{path}: {error.strerror}; check the path and its rights") from error
        raise UnavailableError(
            f"{path}: {error.strerror or error}; the disk does not answer as it should"
        ) from error


def digest_of(path: Path) -> str:
    """Hash of a file, as `WholeFile.digest` gives it."""
    digest = blake3.blake3()
    with named_errors(path), path.open("rb") as file:
        while block := file.read(BUFFER_BYTES):
            digest.update(block)
    return "b3:" + digest.hexdigest()
