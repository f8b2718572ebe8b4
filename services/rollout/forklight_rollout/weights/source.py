"""Where announced weights come from: a folder that this machine sees, a store, or the trainer's sending.

Whatever the way, what comes out is a version on this machine whose manifest is the announced one; its tensors
are proven where they are loaded. What cannot be had one way is got the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from forklight.v1 import types_pb2
from forklight_core.errors import BusyError, ForklightError, NotFoundError, WeightsError
from forklight_core.weights.manifest import MANIFEST_FILE, BaseVersion, Manifest, parse_manifest, torn
from forklight_core.weights.objects import is_url, open_objects
from forklight_core.weights.reading import verify_tensors
from forklight_rollout.weights.cache import WeightsCache
from forklight_rollout.weights.manifest import PublishedWeights, verify_weights

log = logging.getLogger(__name__)


class WeightsSource(Protocol):
    """What a watcher asks for announced weights. Blocking: it is called in a thread."""

    def open(self, announced: types_pb2.WeightsRef, run_id: str) -> PublishedWeights:
        """The version on this machine; WeightsError or UnavailableError."""
        ...

    def discard(self, weights: PublishedWeights) -> None:
        """They turned out to be torn: copies of them are not to be trusted."""
        ...


class Receiver(Protocol):
    """The other end of a trainer that sends versions to all pods at once."""

    def receive(self, session: str, paths: Sequence[tuple[Path, int]]) -> None:
        """Fill these files, of these sizes; an error of the tree when that does not work out."""
        ...


class SharedFolder:
    """Weights are announced by a path that this machine sees, too."""

    def open(self, announced: types_pb2.WeightsRef, run_id: str) -> PublishedWeights:
        return verify_weights(
            Path(announced.manifest), announced.manifest_id, version=announced.version, run_id=run_id
        )

    def discard(self, weights: PublishedWeights) -> None:
        """They are the trainer's."""


@dataclass(slots=True)
class CachedSource:
    """Versions are copied into a folder of this pod's: from a store, or as the trainer sends them."""

    cache: WeightsCache
    receiver: Receiver | None = None

    def open(self, announced: types_pb2.WeightsRef, run_id: str) -> PublishedWeights:
        place = announced.manifest.removesuffix(f"/{MANIFEST_FILE}")
        path = self._find(place, announced.version, announced.manifest_id, is_announced=True)
        weights = verify_weights(
            path,
            announced.manifest_id,
            version=announced.version,
            run_id=run_id,
            find_base=lambda base: self._find(_place_of(place, base), base.version, base.manifest_id),
        )
        self.cache.keep([layer.folder for layer in weights.layers])
        return weights

    def discard(self, weights: PublishedWeights) -> None:
        """An engine may refuse sound weights, too: those need not be copied again."""
        try:
            verify_tensors(weights.layers)
        except WeightsError:
            self.cache.forget([layer.folder for layer in weights.layers])

    def _find(self, place: str, version: int, manifest_id: str, *, is_announced: bool = False) -> Path:
        """Where a version's manifest is: copied before, sent now, in the store, or beside the trainer."""
        folder = self.cache.folder_of(version, manifest_id)
        if self.cache.is_whole(folder):
            return folder / MANIFEST_FILE
        try:
            data = _read_manifest(place)
            manifest = parse_manifest(data, place)
            if not (is_announced and self._receive(manifest, manifest_id, folder)):
                if not is_url(place):
                    return Path(place) / MANIFEST_FILE
                self._fetch(place, manifest, folder)
            self._copy_rest(place, manifest, folder, data)
        except NotFoundError as error:
            raise WeightsError(f"version {version} is not in {place} any more: {error}") from error
        except ForklightError:
            raise
        except OSError as error:
            raise BusyError(
                f"version {version} cannot be copied to {folder}: {error}; look at the disk"
            ) from error
        return folder / MANIFEST_FILE

    def _fetch(self, place: str, manifest: Manifest, folder: Path) -> None:
        """From the store. What an earlier attempt got is kept."""
        self.cache.make_room(manifest, folder)
        objects = open_objects(place)
        for entry in manifest.files:
            if not self.cache.has(folder, entry):
                objects.fetch(entry.file, folder / entry.file)

    def _receive(self, manifest: Manifest, manifest_id: str, folder: Path) -> bool:
        """Whether the trainer sent it. If not, or not to the end, files are read instead."""
        if self.receiver is None:
            return False
        self.cache.make_room(manifest, folder)
        paths = [(folder / entry.file, entry.size_bytes) for entry in manifest.files]
        try:
            self.receiver.receive(manifest_id, paths)
        except ForklightError as error:
            log.warning(
                "a version was not received, its files are read",
                extra={"version": manifest.version, "reason": str(error)},
            )
            return False
        return True

    def _copy_rest(self, place: str, manifest: Manifest, folder: Path, data: bytes) -> None:
        """What lies beside the tensors; the manifest last, which makes the copy whole."""
        files = {entry.file for entry in manifest.files} | {MANIFEST_FILE}
        if is_url(place):
            objects = open_objects(place)
            names = [name for name in objects.list_files() if name not in files]
            rest = {name: objects.read(name) for name in names}
        else:
            paths = [path for path in Path(place).iterdir() if path.is_file() and path.name not in files]
            rest = {path.name: path.read_bytes() for path in paths}
        for name, content in rest.items():
            (folder / Path(name).name).write_bytes(content)
        self.cache.complete(folder, data)


def _read_manifest(place: str) -> bytes:
    if is_url(place):
        return open_objects(place).read(MANIFEST_FILE)
    try:
        return (Path(place) / MANIFEST_FILE).read_bytes()
    except OSError as error:
        raise torn(f"{place}/{MANIFEST_FILE}", f"cannot be read: {error}") from error


def _place_of(place: str, base: BaseVersion) -> str:
    """Where a base is, seen from what builds on it."""
    if is_url(place):
        return base.mirror
    return str(Path(place).parent / base.folder)
