"""Copies of versions in a folder of one pod's own, bounded: what builds on what stays together.

A copy has its manifest once it is whole. Its name has the hash of the manifest, so a number that was
published twice is never mistaken for the other.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from forklight_core.errors import BusyError
from forklight_core.weights.layout import version_folder
from forklight_core.weights.manifest import MANIFEST_FILE, FileEntry, Manifest

log = logging.getLogger(__name__)

ID_LENGTH = 16
SPARE_BYTES = 64 << 20
"""Of a disk, left for others."""


@dataclass(slots=True, kw_only=True)
class WeightsCache:
    """Not shared with another pod."""

    folder: Path
    most_bytes: int = 0
    """Copies that are not needed stay while all together are under this."""
    _kept: list[tuple[Path, ...]] = field(default_factory=list)
    """Folders of the newest version that was opened, and of the one before."""
    _asked: list[Path] = field(default_factory=list)
    """Folders that were asked for since."""

    def folder_of(self, version: int, manifest_id: str) -> Path:
        """Where the copy of a version is, or is about to be: it stays until the next `keep`."""
        content = manifest_id.removeprefix("b3:")[:ID_LENGTH]
        self._asked.append(self.folder / f"{version_folder(version)}-{content}")
        return self._asked[-1]

    def is_whole(self, folder: Path) -> bool:
        """Whether there is a copy."""
        return (folder / MANIFEST_FILE).exists()

    def has(self, folder: Path, entry: FileEntry) -> bool:
        """Whether a file of a copy that was begun is there."""
        path = folder / entry.file
        return path.exists() and path.stat().st_size == entry.size_bytes

    def complete(self, folder: Path, manifest: bytes) -> None:
        """All files of a copy are there."""
        staging = folder / f".{MANIFEST_FILE}"
        staging.write_bytes(manifest)
        staging.replace(folder / MANIFEST_FILE)

    def make_room(self, manifest: Manifest, folder: Path) -> None:
        """Before a copy is made into this folder. BusyError when what may be forgotten is not enough."""
        folder.mkdir(parents=True, exist_ok=True)
        needed = sum(entry.size_bytes for entry in manifest.files)
        self._forget_down_to(self.most_bytes - needed)
        free = shutil.disk_usage(self.folder).free
        if free < needed + SPARE_BYTES:
            self._forget_down_to(0)
            free = shutil.disk_usage(self.folder).free
        if free < needed + SPARE_BYTES:
            raise BusyError(
                f"no room for version {manifest.version} in {self.folder}: it needs {needed} bytes, {free} "
                "are free; give FORKLIGHT_WEIGHTS_CACHE a larger disk"
            )

    def keep(self, folders: Sequence[Path]) -> None:
        """These are in use now; those in use before stay until the next ones."""
        self._kept, self._asked = [*self._kept, tuple(folders)][-2:], []
        self._forget_down_to(self.most_bytes)

    def forget(self, folders: Iterable[Path]) -> None:
        """Remove copies, whoever needs them: they are torn."""
        for folder in folders:
            if folder.parent == self.folder:
                shutil.rmtree(folder, ignore_errors=True)

    def _forget_down_to(self, most_bytes: int) -> None:
        """The oldest of those that are not needed, until the rest takes no more than this."""
        needed = {folder for folders in (*self._kept, self._asked) for folder in folders}
        found = self.folder.glob("v*") if self.folder.is_dir() else ()
        copies = sorted((path for path in found if path.is_dir()), key=_age)
        sizes = {copy: _num_bytes(copy) for copy in copies}
        for copy in copies:
            if sum(sizes.values()) <= most_bytes:
                return
            if copy not in needed:
                log.info("a copy of weights is removed", extra={"folder": copy.name, "bytes": sizes[copy]})
                del sizes[copy]
                shutil.rmtree(copy, ignore_errors=True)


def _age(folder: Path) -> float:
    return folder.stat().st_mtime


def _num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
