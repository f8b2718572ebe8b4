"""What a published version says it is: canonical JSON whose own hash is announced with the version.

It names every tensor with the hash of its bytes, and where they are: whole, as changes against a base
version, or not stored at all because nothing changed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import cast

import blake3

from forklight_core.errors import WeightsError

SCHEMA_VERSION = 2
MANIFEST_FILE = "manifest.json"
ITEM_BYTES = {
    "float64": 8,
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
"""Torch's names of types, and the size of an element."""
HASH = re.compile(r"[0-9a-f]{64}")
Fields = Mapping[str, object]


class VersionKind(StrEnum):
    """Whether a version stands alone."""

    FULL = "full"  # a model folder
    DELTA = "delta"  # needs the version that it names as its base


class Encoding(StrEnum):
    """How a tensor is stored."""

    RAW = "raw"  # its bytes
    CHANGES = "changes"  # records of `weights.changes` against the base
    SAME = "same"  # nothing: it is the base's


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """One tensor of a version."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    hash: str
    """blake3 of the whole tensor's bytes, however it is stored."""
    encoding: Encoding = Encoding.RAW
    file: str = ""
    offset: int = 0
    length: int = 0
    stored_hash: str = ""
    """blake3 of the bytes in the file; of a raw tensor they are the tensor's."""

    @property
    def num_bytes(self) -> int:
        """Of the tensor."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of tensors. What precedes the first tensor (a safetensors header) is its head."""

    file: str
    size_bytes: int
    head_bytes: int = 0
    head_hash: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseVersion:
    """The version that a delta's changes are against."""

    version: int
    manifest_id: str
    folder: str
    """Name of its folder, beside the delta's."""
    mirror: str = ""
    """URL of its folder in an object store; empty when there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What the trainer's own forward pass says of a token sequence under these weights, and where it ran."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]  # fp32, of the tokens after the first, at temperature 1
    is_parity: bool  # the trainer's self-test found every bit equal
    contract: str  # of its kernels
    device: str
    torch: str
    triton: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a version consists of."""

    run_id: str
    version: int
    step: int
    contract: str  # of the trainer: architecture, dtype and kernels
    kernels: str  # the kernels' part of it, which a pod compares with its own
    config_json: str  # the published model configuration
    files: tuple[FileEntry, ...]
    tensors: Mapping[str, TensorEntry]
    probe: Probe | None = None  # None from a trainer that published none
    kind: VersionKind = VersionKind.FULL
    base: BaseVersion | None = None
    depth: int = 0  # deltas that have to be applied to the last full version
    mirror: str = ""  # URL of this version's folder in an object store
    created_at: float = 0.0

    @property
    def num_bytes(self) -> int:
        """Of all tensors."""
        return sum(entry.num_bytes for entry in self.tensors.values())

    @property
    def num_stored_bytes(self) -> int:
        """Of what this version adds to its base."""
        return sum(entry.length for entry in self.tensors.values())


def encode_manifest(manifest: Manifest) -> bytes:
    """Canonical: the same manifest always gives the same bytes."""
    fields = asdict(replace(manifest, tensors={}))  # they are many, and encoded below
    fields["schema_version"] = SCHEMA_VERSION
    fields["config"] = json.loads(fields.pop("config_json"))
    fields["tensors"] = {name: _encode_tensor(entry) for name, entry in manifest.tensors.items()}
    if manifest.probe is not None:
        mode = ("is_parity", "contract", "device", "torch", "triton")
        fields["probe"]["mode"] = {name: fields["probe"].pop(name) for name in mode}
    return (json.dumps(fields, sort_keys=True, separators=(",", ":")) + "\n").encode()


def manifest_id(data: bytes) -> str:
    """The name of a manifest: its hash."""
    return "b3:" + blake3.blake3(data).hexdigest()


def parse_manifest(data: bytes, where: object) -> Manifest:
    """Manifest bytes to a dataclass; anything unexpected is a WeightsError."""
    try:
        fields = json.loads(data)
        _require_known_kind(fields)
        manifest = Manifest(
            run_id=str(fields["run_id"]),
            version=int(fields["version"]),
            step=int(fields["step"]),
            contract=str(fields["contract"]),
            kernels=str(fields["kernels"]),
            config_json=json.dumps(fields["config"], sort_keys=True),
            files=tuple(_file(entry) for entry in fields["files"]),
            tensors={str(name): _tensor(str(name), entry) for name, entry in fields["tensors"].items()},
            probe=_probe(fields["probe"]) if fields.get("probe") else None,
            kind=VersionKind(fields["kind"]),
            base=_base(fields["base"]) if fields.get("base") else None,
            depth=int(fields.get("depth", 0)),
            mirror=str(fields.get("mirror", "")),
            created_at=float(fields.get("created_at", 0.0)),
        )
        _check(manifest)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise torn(where, f"is not a manifest this build reads: {type(error).__name__} {error}") from error
    return manifest


def torn(where: object, problem: str) -> WeightsError:
    """A file of published weights that is not as promised."""
    return WeightsError(
        f"weights file {where} {problem}; the version is refused, and whoever has an older one keeps it "
        "(the next published version repairs this; check the disk if it comes back)"
    )


def without_probe(manifest: Manifest) -> Manifest:
    """For those who need not know it: its numbers are most of a small manifest."""
    return replace(manifest, probe=None)


def _encode_tensor(entry: TensorEntry) -> dict[str, object]:
    fields: dict[str, object] = {
        "dtype": entry.dtype,
        "shape": list(entry.shape),
        "blake3": entry.hash,
        "encoding": entry.encoding.value,
    }
    if entry.encoding is not Encoding.SAME:
        fields |= {"file": entry.file, "offset": entry.offset, "length": entry.length}
    if entry.encoding is Encoding.CHANGES:
        fields["stored_blake3"] = entry.stored_hash
    return fields


def _require_known_kind(fields: Fields) -> None:
    if fields["schema_version"] != SCHEMA_VERSION or fields["kind"] not in list(VersionKind):
        kinds = " or ".join(VersionKind)
        raise ValueError(
            f"it has schema version {fields['schema_version']} and kind {fields['kind']!r}, this build reads "
            f"{SCHEMA_VERSION} and {kinds}"
        )


def _tensor(name: str, entry: Fields) -> TensorEntry:
    encoding, content = Encoding(str(entry["encoding"])), _hash(entry["blake3"])
    is_stored = encoding is not Encoding.SAME
    return TensorEntry(
        name=name,
        dtype=str(entry["dtype"]),
        shape=tuple(_count(size) for size in cast("list[int]", entry["shape"])),
        hash=content,
        encoding=encoding,
        file=_plain(entry["file"]) if is_stored else "",
        offset=_count(entry["offset"]) if is_stored else 0,
        length=_count(entry["length"]) if is_stored else 0,
        stored_hash=_hash(entry["stored_blake3"]) if encoding is Encoding.CHANGES else content,
    )


def _file(entry: Fields) -> FileEntry:
    head_bytes = _count(entry["head_bytes"])
    return FileEntry(
        file=_plain(entry["file"]),
        size_bytes=_count(entry["size_bytes"]),
        head_bytes=head_bytes,
        head_hash=_hash(entry["head_hash"]) if head_bytes else "",
    )


def _base(entry: Fields) -> BaseVersion:
    return BaseVersion(
        version=_count(entry["version"]),
        manifest_id=str(entry["manifest_id"]),
        folder=_plain(entry["folder"]),
        mirror=str(entry["mirror"]),
    )


def _probe(entry: Fields) -> Probe:
    mode = cast("Fields", entry["mode"])
    probe = Probe(
        ids=tuple(int(token) for token in cast("list[int]", entry["ids"])),
        logprobs=tuple(float(logprob) for logprob in cast("list[float]", entry["logprobs"])),
        is_parity=mode["is_parity"] is True,
        **{name: str(mode[name]) for name in ("contract", "device", "torch", "triton")},
    )
    if len(probe.ids) < 2 or len(probe.logprobs) != len(probe.ids) - 1 or min(probe.ids) < 0:
        raise ValueError(f"a probe of {len(probe.ids)} tokens and {len(probe.logprobs)} log-probs")
    if not all(map(math.isfinite, probe.logprobs)):
        raise ValueError("a probe with a log-prob that is not finite")
    return probe


def _check(manifest: Manifest) -> None:
    """What fields say of each other."""
    is_delta = manifest.kind is VersionKind.DELTA
    if is_delta != (manifest.base is not None) or is_delta != (manifest.depth > 0):
        raise ValueError(f"it is {manifest.kind}, of depth {manifest.depth}, with the base {manifest.base}")
    sizes = {entry.file: entry.size_bytes for entry in manifest.files}
    for entry in manifest.tensors.values():
        if entry.dtype not in ITEM_BYTES:
            raise ValueError(f"{entry.name} has the unknown type {entry.dtype!r}")
        if entry.encoding is not Encoding.RAW and not is_delta:
            raise ValueError(f"{entry.name} is stored as {entry.encoding} in a full version")
        if entry.encoding is Encoding.RAW and entry.length != entry.num_bytes:
            raise ValueError(f"{entry.name} has {entry.length} bytes, its shape needs {entry.num_bytes}")
        if entry.length and not 0 <= entry.offset <= sizes[entry.file] - entry.length:
            raise ValueError(f"{entry.name} lies beyond the end of {entry.file}")


def _plain(name: object) -> str:
    """A file or folder beside the manifest, nowhere else."""
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name:
        raise ValueError(f"{name!r} is not a plain name")
    return name


def _count(number: object) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise ValueError(f"{number!r} is no count")
    return number


def _hash(text: object) -> str:
    if not isinstance(text, str) or not HASH.fullmatch(text):
        raise ValueError(f"{text!r} is no hash")
    return text
