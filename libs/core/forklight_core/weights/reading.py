"""Reading a version's tensors from its files and those of the versions it builds on, each proven by its hash.

Nothing is kept between versions: a tensor is the bytes of the last full version with the changes since then
applied, in a buffer of the reader's. So it does not matter which version a reader had before, or whether any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import blake3
import numpy as np

from forklight_core.errors import WeightsError
from forklight_core.weights.changes import (
    CHUNK_ELEMENTS,
    Bytes,
    Record,
    as_elements,
    decode_chunk,
    read_records,
)
from forklight_core.weights.manifest import (
    ITEM_BYTES,
    MANIFEST_FILE,
    BaseVersion,
    Encoding,
    Manifest,
    TensorEntry,
    manifest_id,
    parse_manifest,
    torn,
)
from forklight_core.weights.opened import OpenedFiles

PIECE_BYTES = 8 * CHUNK_ELEMENTS
"""A whole number of chunks, whatever the type."""
MOST_DEPTH = 256
LARGE_BYTES = 64 << 20
FindBase = Callable[[BaseVersion], Path]
"""Where the manifest of a base is, on this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A version whose manifest has been read, and whose files are there and as long as they should be."""

    folder: Path
    manifest: Manifest
    manifest_id: str


def open_layers(
    path: Path, expected_id: str | None = None, find_base: FindBase | None = None
) -> tuple[Layer, ...]:
    """The version of a manifest and what it builds on, newest first; the last one is full.

    WeightsError says which file is wrong and how. The tensors themselves are proven where they are read.
    """
    layers = [_open_layer(path, expected_id)]
    while (base := layers[-1].manifest.base) is not None:
        if len(layers) > MOST_DEPTH:
            raise torn(path, f"builds on more than {MOST_DEPTH} versions")
        found = find_base(base) if find_base else _beside(layers[-1].folder, base)
        layer = _open_base(found, base, layers[0])
        _check_step(layers[-1], layer)
        layers.append(layer)
    return tuple(layers)


class VersionReader:
    """Opens tensors of a version. For several threads. Files stay open until `close`, or its end."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = tuple(layers)
        self._files = OpenedFiles()

    def __enter__(self) -> VersionReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of its files, once nobody reads any more."""
        self._files.close()

    @property
    def entries(self) -> Iterable[TensorEntry]:
        return self._layers[0].manifest.tensors.values()

    def find(self, name: str) -> TensorEntry | None:
        """What is said of a tensor; None where there is none."""
        return self._layers[0].manifest.tensors.get(name)

    def open(self, name: str) -> StoredTensor:
        """A tensor, with the stored bytes of its changes proven."""
        records: list[list[Record]] = []
        for layer in self._layers:
            entry = layer.manifest.tensors[name]
            if entry.encoding is Encoding.RAW:
                whole = Extent(self._files, layer.folder, entry)
                return StoredTensor(self._layers[0].manifest.tensors[name], whole, records[::-1])
            if entry.encoding is Encoding.CHANGES:
                stored = np.empty(entry.length, np.uint8)
                Extent(self._files, layer.folder, entry).read_into(stored, 0)
                records.append(_checked_records(layer, entry, stored))
        raise AssertionError(f"{name} has no bytes in a full version")


@dataclass(frozen=True, slots=True)
class Extent:
    """What a version's files hold of a tensor."""

    files: OpenedFiles
    folder: Path
    entry: TensorEntry

    def read_into(self, out: Bytes, start: int) -> None:
        """The bytes from `start` on, as many as `out` holds."""
        if len(out):
            self.files.read(self.folder, self.entry.file, out, self.entry.offset + start)


class StoredTensor:
    """A tensor's bytes, to be read in pieces that begin at a multiple of PIECE_BYTES."""

    def __init__(self, entry: TensorEntry, base: Extent, records: list[list[Record]]) -> None:
        self.entry = entry
        self._base, self._records = base, records

    def read_into(self, out: Bytes, start: int) -> None:
        """The bytes from `start` on, as many as `out` holds."""
        self._base.read_into(out, start)
        if not self._records:
            return
        element_bytes = ITEM_BYTES[self.entry.dtype]
        chunk_bytes = CHUNK_ELEMENTS * element_bytes
        for records in self._records:
            for place in range(0, len(out), chunk_bytes):
                chunk = as_elements(out[place : place + chunk_bytes], element_bytes)
                decode_chunk(records[(start + place) // chunk_bytes], chunk)

    def bounds(self, span: range | None = None) -> Iterator[tuple[int, int]]:
        """Where each piece begins and ends. With a span only the pieces that hold some of it."""
        num_bytes = self.entry.num_bytes
        first, end = (0, num_bytes) if span is None else (span.start // PIECE_BYTES * PIECE_BYTES, span.stop)
        for start in range(first, end, PIECE_BYTES):
            yield start, min(start + PIECE_BYTES, num_bytes)

    def pieces(self, buffer: Bytes, span: range | None = None) -> Iterator[tuple[int, Bytes]]:
        """Where each piece begins, and its bytes in `buffer`, which the next overwrites."""
        for start, stop in self.bounds(span):
            piece = buffer[: stop - start]
            self.read_into(piece, start)
            yield start, piece


class TensorProof:
    """Hashes a tensor's pieces as they pass; `check` says whether they were the tensor that was promised."""

    def __init__(self, entry: TensorEntry) -> None:
        self._entry, self._hasher = entry, new_hasher(entry.num_bytes)

    def take(self, piece: Bytes) -> None:
        self._hasher.update(piece.data)

    def check(self) -> None:
        """Once all pieces have passed, in order."""
        found = self._hasher.hexdigest()
        if found != self._entry.hash:
            raise WeightsError(
                f"tensor {self._entry.name} is torn: what is in {self._entry.file or 'the base'} hashes to "
                f"{found}, its manifest says {self._entry.hash}; the version is refused, and whoever has an "
                "older one keeps it (the next full version repairs this; check the disk if it comes back)"
            )


def new_hasher(num_bytes: int) -> blake3.blake3:
    """Tensors are hashed side by side, a thread each; all cores help with one that others would wait for."""
    return blake3.blake3(max_threads=blake3.blake3.AUTO if num_bytes >= LARGE_BYTES else 1)


def verify_tensors(layers: Sequence[Layer], *, num_threads: int = 2) -> None:
    """Read every tensor of a version; WeightsError names one that is not as promised."""

    def verify(entry: TensorEntry) -> None:
        proof, buffer = TensorProof(entry), np.empty(min(PIECE_BYTES, entry.num_bytes), np.uint8)
        for _, piece in reader.open(entry.name).pieces(buffer):
            proof.take(piece)
        proof.check()

    with VersionReader(layers) as reader, ThreadPoolExecutor(num_threads) as pool:
        list(pool.map(verify, reader.entries))


def _open_layer(path: Path, expected_id: str | None) -> Layer:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise torn(path, f"cannot be read: {error}") from error
    found = manifest_id(data)
    if expected_id is not None and found != expected_id:
        raise torn(path, f"is torn: it hashes to {found}, announced was {expected_id}")
    manifest = parse_manifest(data, path)
    for entry in manifest.files:
        _check_file(path.parent / entry.file, entry.size_bytes, entry.head_bytes, entry.head_hash)
    return Layer(folder=path.parent, manifest=manifest, manifest_id=found)


def _open_base(path: Path, base: BaseVersion, top: Layer) -> Layer:
    """A base that is gone or another is a fault of the delta: nothing can be made of it."""
    try:
        return _open_layer(path, base.manifest_id)
    except WeightsError as error:
        manifest = top.manifest
        raise WeightsError(
            f"version {manifest.version} in {top.folder} is a delta and cannot be applied: its base, version "
            f"{base.version}, is not at hand ({error}); it is refused until the next full version comes"
        ) from error


def _beside(folder: Path, base: BaseVersion) -> Path:
    return folder.parent / base.folder / MANIFEST_FILE


def _check_step(layer: Layer, base: Layer) -> None:
    """A base fits what builds on it."""
    new, old = layer.manifest, base.manifest
    expected = (new.run_id, new.depth - 1)
    if (old.run_id, old.depth) != expected or old.version >= new.version:
        raise torn(
            layer.folder / MANIFEST_FILE,
            f"builds on version {old.version} of run {old.run_id!r} at depth {old.depth}, which does not fit",
        )
    for entry in new.tensors.values():
        if entry.encoding is Encoding.RAW:
            continue
        other = old.tensors.get(entry.name)
        if other is None or (other.dtype, other.shape) != (entry.dtype, entry.shape):
            raise torn(layer.folder / MANIFEST_FILE, f"changes {entry.name}, which its base has otherwise")


def _check_file(path: Path, size_bytes: int, head_bytes: int, head_hash: str) -> None:
    try:
        found = path.stat().st_size
        if found != size_bytes:
            raise torn(path, f"is torn: it has {found} bytes, its manifest says {size_bytes}")
        if head_bytes:
            with path.open("rb") as file:
                digest = blake3.blake3(file.read(head_bytes)).hexdigest()
            if digest != head_hash:
                raise torn(path, f"is torn: its head hashes to {digest}, its manifest says {head_hash}")
    except OSError as error:
        raise torn(path, f"cannot be read: {error}") from error


def _checked_records(layer: Layer, entry: TensorEntry, stored: Bytes) -> list[Record]:
    where = layer.folder / entry.file
    hasher = new_hasher(len(stored))
    hasher.update(stored.data)
    found = hasher.hexdigest()
    if found != entry.stored_hash:
        raise torn(where, f"is torn: changes of {entry.name} hash to {found}, not as promised")
    records = list(read_records(stored))
    chunk_bytes = CHUNK_ELEMENTS * ITEM_BYTES[entry.dtype]
    if len(records) != -(-entry.num_bytes // chunk_bytes):
        raise torn(where, f"holds {len(records)} records of {entry.name}, which has another number of chunks")
    return records
