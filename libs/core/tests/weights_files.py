"""Versions on a disk for tests of core: tensors are arrays of unsigned integers, types are the manifest's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import blake3
import numpy as np

from forklight_core.weights.changes import CHUNK_ELEMENTS, UNSIGNED, Elements, encode_chunk
from forklight_core.weights.files import VersionFile
from forklight_core.weights.layout import CHANGES_FILE, WHOLE_FILE, version_folder
from forklight_core.weights.manifest import (
    ITEM_BYTES,
    MANIFEST_FILE,
    BaseVersion,
    Encoding,
    Manifest,
    TensorEntry,
    VersionKind,
    encode_manifest,
)
from forklight_core.weights.reading import Layer, VersionReader, open_layers

Tensors = Mapping[str, tuple[str, Elements]]


def make_manifest(**fields: object) -> Manifest:
    values: dict[str, object] = {
        "run_id": "run",
        "version": 0,
        "step": 0,
        "contract": "c0",
        "kernels": "k0",
        "config_json": "{}",
        "files": (),
        "tensors": {},
    }
    return Manifest(**(values | fields))  # type: ignore[arg-type]


def describe(name: str, dtype: str, values: Elements) -> TensorEntry:
    content = blake3.blake3(values.tobytes()).hexdigest()
    return TensorEntry(name=name, dtype=dtype, shape=values.shape, hash=content, stored_hash=content)


def write_version(
    root: Path, version: int, tensors: Tensors, base: tuple[Layer, ...] = ()
) -> tuple[Layer, ...]:
    """Full, or every tensor as changes against a base."""
    folder = root / version_folder(version)
    folder.mkdir()
    name = (CHANGES_FILE if base else WHOLE_FILE).format(rank=0, number=1)
    entries = {}
    with VersionFile(folder / name) as file:
        for key, (dtype, values) in tensors.items():
            entry, data = describe(key, dtype, values), values.tobytes()
            if base:
                data = record_changes(values, read(base)[key])
                stored_hash = blake3.blake3(data).hexdigest()
                entry = replace(entry, encoding=Encoding.CHANGES, stored_hash=stored_hash)
            entries[key] = replace(entry, file=name, offset=file.begin(entry), length=len(data))
            file.write(data)
        described = file.finish()
    manifest = make_manifest(
        version=version,
        files=(described,),
        tensors=entries,
        kind=VersionKind.DELTA if base else VersionKind.FULL,
        depth=len(base),
        base=name_base(base[0]) if base else None,
    )
    (folder / MANIFEST_FILE).write_bytes(encode_manifest(manifest))
    return open_layers(folder / MANIFEST_FILE)


def name_base(layer: Layer) -> BaseVersion:
    return BaseVersion(
        version=layer.manifest.version, manifest_id=layer.manifest_id, folder=layer.folder.name
    )


def record_changes(new: Elements, old: Elements) -> bytes:
    new, old = new.reshape(-1), old.reshape(-1)
    chunks = [slice(start, start + CHUNK_ELEMENTS) for start in range(0, len(new), CHUNK_ELEMENTS)]
    return b"".join(encode_chunk(new[chunk], old[chunk]) for chunk in chunks)


def read(layers: tuple[Layer, ...]) -> dict[str, Elements]:
    """Every tensor of a version."""
    reader, found = VersionReader(layers), {}
    for entry in reader.entries:
        data = np.empty(entry.num_bytes, np.uint8)
        if len(data):
            reader.open(entry.name).read_into(data, 0)
        found[entry.name] = data.view(UNSIGNED[ITEM_BYTES[entry.dtype]]).reshape(entry.shape)
    return found
