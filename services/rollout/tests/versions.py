"""Versions as a trainer publishes them, for tests of those who read them: files, manifest, reference."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import blake3
import numpy as np
import torch
from torch import Tensor

from forklight.v1 import types_pb2
from forklight_core.weights.changes import CHUNK_ELEMENTS, as_elements, encode_chunk
from forklight_core.weights.files import VersionFile
from forklight_core.weights.layout import version_folder
from forklight_core.weights.manifest import (
    MANIFEST_FILE,
    BaseVersion,
    Encoding,
    Manifest,
    TensorEntry,
    VersionKind,
    encode_manifest,
    manifest_id,
)
from forklight_kernels.contract import contract_hash
from forklight_rollout.weights.manifest import PublishedWeights, verify_weights

RUN_ID = "test-run"
SHARD = "model-r0-1.safetensors"
CHANGES = "changes-r0-1.bin"


def write_version(
    root: Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, object],
    version: int,
    *,
    kernels: str | None = None,
) -> types_pb2.WeightsRef:
    """A full version in one file."""
    folder = root / version_folder(version)
    folder.mkdir(parents=True)
    entries = {}
    with VersionFile(folder / SHARD) as file:
        for name, tensor in tensors.items():
            entry = describe_tensor(name, tensor)
            entries[name] = replace(entry, file=SHARD, offset=file.begin(entry), length=entry.num_bytes)
            file.write(tensor_bytes(tensor).data)
        described = file.finish()
    return write_manifest(
        folder,
        Manifest(
            run_id=RUN_ID,
            version=version,
            step=version,
            contract="test-contract",
            kernels=contract_hash() if kernels is None else kernels,
            config_json=json.dumps(config),
            files=(described,),
            tensors=entries,
        ),
    )


def write_delta(
    base: PublishedWeights, tensors: Mapping[str, Tensor], old: Mapping[str, Tensor], version: int
) -> types_pb2.WeightsRef:
    """A version that holds what changed against another one, whose tensors `old` are."""
    folder = base.folder.parent / version_folder(version)
    folder.mkdir()
    entries = {}
    with VersionFile(folder / CHANGES) as file:
        for name, tensor in tensors.items():
            entry = describe_tensor(name, tensor)
            stored = _changes(tensor, old[name])
            place = {"file": CHANGES, "offset": file.begin(entry), "length": len(stored)}
            hashes = {"encoding": Encoding.CHANGES, "stored_hash": blake3.blake3(stored).hexdigest()}
            entries[name] = replace(entry, **place, **hashes)  # type: ignore[arg-type]
            file.write(stored)
        described = file.finish()
    for path in base.folder.glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    named = BaseVersion(version=base.version, manifest_id=base.manifest_id, folder=base.folder.name)
    manifest = replace(
        base.manifest,
        version=version,
        step=version,
        files=(described,),
        tensors=entries,
        kind=VersionKind.DELTA,
        base=named,
        depth=base.manifest.depth + 1,
    )
    return write_manifest(folder, manifest)


def write_manifest(folder: Path, manifest: Manifest) -> types_pb2.WeightsRef:
    """Of files that are there."""
    data = encode_manifest(manifest)
    path = folder / MANIFEST_FILE
    path.write_bytes(data)
    return types_pb2.WeightsRef(version=manifest.version, manifest=str(path), manifest_id=manifest_id(data))


def verify(reference: types_pb2.WeightsRef) -> PublishedWeights:
    """As a pod looks at what was announced."""
    return verify_weights(
        Path(reference.manifest), reference.manifest_id, version=reference.version, run_id=RUN_ID
    )


def describe_tensor(name: str, tensor: Tensor) -> TensorEntry:
    """A tensor that is not stored anywhere yet."""
    content = blake3.blake3(tensor_bytes(tensor).data).hexdigest()
    return TensorEntry(
        name=name,
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        hash=content,
        stored_hash=content,
    )


def tensor_bytes(tensor: Tensor) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()


def _changes(new: Tensor, old: Tensor) -> bytes:
    size = new.element_size()
    ours, theirs = (as_elements(tensor_bytes(each), size) for each in (new, old))
    chunks = [slice(start, start + CHUNK_ELEMENTS) for start in range(0, len(ours), CHUNK_ELEMENTS)]
    return b"".join(encode_chunk(ours[chunk], theirs[chunk]) for chunk in chunks)
