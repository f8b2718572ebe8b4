"""Versions made of any tensors, written by a sink as an engine would, for tests of publishing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from forklight_core.weights.files import describe_file
from forklight_core.weights.layout import version_folder
from forklight_core.weights.manifest import (
    MANIFEST_FILE,
    BaseVersion,
    Manifest,
    VersionKind,
    encode_manifest,
)
from forklight_core.weights.reading import Layer, open_layers
from forklight_trainer.publishing.plan import SinkPlan


def publish_tensors(
    root: Path, version: int, tensors: Mapping[str, Tensor], plan: SinkPlan
) -> tuple[Layer, ...]:
    """A version's folder, its files as the plan says."""
    folder = root / version_folder(version)
    folder.mkdir()
    with replace(plan, folder=folder).open() as sink:
        for name, tensor in tensors.items():
            sink.put(name, tensor)
        entries = sink.close()
    base = plan.base[0] if plan.base else None
    manifest = Manifest(
        run_id="run",
        version=version,
        step=version,
        contract="c0",
        kernels="k0",
        config_json="{}",
        files=tuple(describe_file(folder / name) for name in sorted({e.file for e in entries if e.file})),
        tensors={entry.name: entry for entry in entries},
        kind=VersionKind.DELTA if base else VersionKind.FULL,
        depth=len(plan.base),
        base=BaseVersion(version=base.manifest.version, manifest_id=base.manifest_id, folder=base.folder.name)
        if base
        else None,
    )
    (folder / MANIFEST_FILE).write_bytes(encode_manifest(manifest))
    return open_layers(folder / MANIFEST_FILE)


def as_bytes(tensor: Tensor) -> bytes:
    """A tensor's bytes, whatever its type."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
