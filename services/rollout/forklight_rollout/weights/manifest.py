"""The manifest of published weights: reading it, and proving that the files beside it are what it says.

A manifest is canonical JSON; its own blake3 is announced with the version, and it names that of every shard.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import blake3

from forklight_core.errors import WeightsError

MANIFEST_SCHEMA_VERSION = 1
FULL = "full"
TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file of tensors."""

    file: str
    size_bytes: int
    blake3: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """Shape, type and place of one tensor."""

    shape: tuple[int, ...]
    dtype: str
    shard: str


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
    shards: tuple[Shard, ...]
    tensors: Mapping[str, TensorEntry]
    probe: Probe | None  # None from a trainer that published none


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedWeights:
    """A version on disk whose manifest and shards have been checked against their hashes."""

    folder: Path
    manifest_id: str
    manifest: Manifest
    tokenizer_hash: str  # of the tokenizer beside it; empty when there is none

    @property
    def version(self) -> int:
        return self.manifest.version


def verify_weights(path: Path, manifest_id: str, *, version: int, run_id: str) -> PublishedWeights:
    """Read a manifest and hash everything it names; WeightsError says which file is wrong and how."""
    data = _read(path)
    found = "b3:" + blake3.blake3(data).hexdigest()
    if found != manifest_id:
        raise _torn(path, f"hashes to {found}, announced was {manifest_id}")
    manifest = parse_manifest(data, path)
    if (manifest.version, manifest.run_id) != (version, run_id):
        raise _torn(
            path,
            f"is version {manifest.version} of run {manifest.run_id!r}, expected {version} of {run_id!r}",
        )
    for shard in manifest.shards:
        _verify_shard(path.parent / shard.file, shard)
    return PublishedWeights(
        folder=path.parent,
        manifest_id=manifest_id,
        manifest=manifest,
        tokenizer_hash=_hash_tokenizer(path.parent / TOKENIZER_FILE),
    )


def parse_manifest(data: bytes, path: Path) -> Manifest:
    """Manifest bytes to a dataclass; anything unexpected is a WeightsError."""
    try:
        fields = json.loads(data)
        _require_known_kind(fields, path)
        return Manifest(
            run_id=str(fields["run_id"]),
            version=int(fields["version"]),
            step=int(fields["step"]),
            contract=str(fields["contract"]),
            kernels=str(fields["kernels"]),
            config_json=json.dumps(fields["config"], sort_keys=True),
            shards=tuple(_shard(entry) for entry in fields["shards"]),
            tensors={str(name): _tensor(entry) for name, entry in fields["tensors"].items()},
            probe=_probe(fields["probe"]) if fields.get("probe") else None,
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _torn(path, f"is not a manifest this build reads: {type(error).__name__} {error}") from error


def _require_known_kind(fields: Mapping[str, object], path: Path) -> None:
    if fields["schema_version"] != MANIFEST_SCHEMA_VERSION or fields["kind"] != FULL:
        raise _torn(
            path,
            f"has schema version {fields['schema_version']} and kind {fields['kind']!r}, this build reads "
            f"{MANIFEST_SCHEMA_VERSION} and {FULL!r}",
        )


def _shard(entry: Mapping[str, object]) -> Shard:
    name = str(entry["file"])
    if Path(name).name != name:
        raise ValueError(f"shard file {name!r} is not a plain name")
    return Shard(file=name, size_bytes=int(str(entry["size_bytes"])), blake3=str(entry["blake3"]))


def _tensor(entry: Mapping[str, object]) -> TensorEntry:
    shape = tuple(int(size) for size in cast("list[int]", entry["shape"]))
    return TensorEntry(shape=shape, dtype=str(entry["dtype"]), shard=str(entry["shard"]))


def _probe(entry: Mapping[str, object]) -> Probe:
    mode = cast("Mapping[str, object]", entry["mode"])
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


def _verify_shard(path: Path, shard: Shard) -> None:
    try:
        size = path.stat().st_size
        if size != shard.size_bytes:
            raise _torn(path, f"has {size} bytes, its manifest says {shard.size_bytes}")
        digest = blake3.blake3().update_mmap(path).hexdigest()
    except OSError as error:
        raise _torn(path, f"cannot be read: {error}") from error
    if digest != shard.blake3:
        raise _torn(path, f"hashes to {digest}, its manifest says {shard.blake3}")


def _hash_tokenizer(path: Path) -> str:
    return blake3.blake3(_read(path)).hexdigest() if path.exists() else ""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _torn(path, f"cannot be read: {error}") from error


def _torn(path: Path, problem: str) -> WeightsError:
    return WeightsError(
        f"weights file {path} {problem}; the version is refused and the pod keeps what it has "
        "(the next published version repairs this; check the disk if it comes back)"
    )
