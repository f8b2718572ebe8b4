"""Published weights as a pod knows them: a version on this machine, and what it builds on.

What the manifest promises is proven in two steps: here that the files are there and whole by their sizes, and
tensor by tensor where an engine loads them, so that every byte is read once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import blake3

from forklight_core.weights.manifest import Manifest, Probe, TensorEntry, torn
from forklight_core.weights.reading import FindBase, Layer, open_layers

__all__ = ["Layer", "Manifest", "Probe", "PublishedWeights", "TensorEntry", "verify_weights"]

TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedWeights:
    """A version on disk whose manifest is the announced one."""

    folder: Path
    manifest_id: str
    manifest: Manifest
    tokenizer_hash: str  # of the tokenizer beside it; empty when there is none
    bases: tuple[Layer, ...] = ()
    """What a delta builds on, newest first; the last one is full."""

    @property
    def version(self) -> int:
        return self.manifest.version

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The version and its bases."""
        return (
            Layer(folder=self.folder, manifest=self.manifest, manifest_id=self.manifest_id),
            *self.bases,
        )


def verify_weights(
    path: Path, manifest_id: str, *, version: int, run_id: str, find_base: FindBase | None = None
) -> PublishedWeights:
    """Read a manifest and those it builds on; WeightsError says which file is wrong and how."""
    newest, *bases = open_layers(path, manifest_id, find_base)
    manifest = newest.manifest
    if (manifest.version, manifest.run_id) != (version, run_id):
        raise torn(
            path,
            f"is version {manifest.version} of run {manifest.run_id!r}, expected {version} of {run_id!r}",
        )
    return PublishedWeights(
        folder=newest.folder,
        manifest_id=manifest_id,
        manifest=manifest,
        tokenizer_hash=_hash_tokenizer(path.parent / TOKENIZER_FILE),
        bases=tuple(bases),
    )


def _hash_tokenizer(path: Path) -> str:
    try:
        return blake3.blake3(path.read_bytes()).hexdigest() if path.exists() else ""
    except OSError as error:
        raise torn(path, f"cannot be read: {error}") from error
