"""Weights of a size as a trainer holds them, a few AdamW updates later, and versions of them in a folder.

Updates are AdamW's own on random gradients: each of a million coordinates has a direction of its own under
four times as much noise, and every tensor takes its changes from there. Real gradients agree less from step
to step, and change less: this is the harder case.
"""

# ruff: noqa: INP001
from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import paths
import torch
from torch import Tensor

sys.path += [str(paths.ROOT / "services/rollout")]

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
from forklight_model.checkpoint import published_tensors
from forklight_model.model import HybridModel
from forklight_model.sizes import SIZES
from forklight_trainer.publishing.plan import SinkManner, SinkPlan

RUN_ID = "bench"
STORE = "bench"
NUM_COORDINATES = 1 << 20
DRIFT = 0.25
"""Of a gradient, what stays from step to step, beside noise of 1."""


def make_model(size: str, device: str) -> HybridModel:
    """bf16 weights of the published spread."""
    with torch.device("meta"):
        model = HybridModel(SIZES[size], is_initialized=False)
    model.to(torch.bfloat16).to_empty(device=device)
    chance = torch.Generator(device).manual_seed(0)
    spread = SIZES[size].initializer_range
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, spread, generator=chance)
    return model.requires_grad_(False)


def moves(learning_rate: float, num_updates: int, device: str) -> Tensor:
    """How far AdamW carries a million coordinates in so many updates."""
    chance = torch.Generator(device).manual_seed(1)
    place = torch.nn.Parameter(torch.zeros(NUM_COORDINATES, dtype=torch.float64, device=device))
    optimizer = torch.optim.AdamW([place], lr=learning_rate, betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0)
    drift = DRIFT * torch.randn(NUM_COORDINATES, generator=chance, device=device)
    for _ in range(num_updates):
        noise = torch.randn(NUM_COORDINATES, generator=chance, device=device)
        place.grad = (drift + noise).double()
        optimizer.step()
    return place.detach().float()


@torch.no_grad()
def advance(model: HybridModel, moved: Tensor) -> None:
    """Move every weight from a place within its bf16 rounding, where an fp32 master could be."""
    chance = torch.Generator(moved.device).manual_seed(2)
    for parameter in model.parameters():
        flat = parameter.reshape(-1)
        for start in range(0, len(flat), NUM_COORDINATES):
            part = flat[start : start + NUM_COORDINATES]
            step = (part.view(torch.int16) + 1).view(torch.bfloat16).float() - part.float()
            within = torch.rand(part.shape, generator=chance, device=part.device) - 0.5
            part.copy_(part.float() + within * step.abs() + moved[: len(part)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A version, and how long it took to write."""

    layers: tuple[Layer, ...]
    seconds: float
    cpu_s: float
    """Of all cores."""

    @property
    def path(self) -> str:
        return str(self.layers[0].folder / MANIFEST_FILE)

    @property
    def share(self) -> float:
        """Of a full version's bytes."""
        manifest = self.layers[0].manifest
        return manifest.num_stored_bytes / manifest.num_bytes


def publish(
    model: HybridModel, root: Path, version: int, base: tuple[Layer, ...], manner: SinkManner
) -> Published:
    """As the engine of one process publishes a version; `base`: against which changes are written."""
    folder = root / version_folder(version)
    folder.mkdir()
    started, cpu_started = time.perf_counter(), time.process_time()
    plan = SinkPlan(folder=folder, base=base, store=STORE, remembers=not base, manner=manner)
    with plan.open() as sink:
        for name, tensor in sorted(published_tensors(model), key=lambda each: -each[1].nbytes):
            sink.put(name, tensor)
        entries = sink.close()
    manifest = Manifest(
        run_id=RUN_ID,
        version=version,
        step=version,
        contract="",
        kernels="",
        config_json="{}",
        files=tuple(describe_file(folder / name) for name in sorted({e.file for e in entries if e.file})),
        tensors={entry.name: entry for entry in entries},
    )
    if base:
        named = BaseVersion(
            version=base[0].manifest.version, manifest_id=base[0].manifest_id, folder=base[0].folder.name
        )
        manifest = replace(manifest, kind=VersionKind.DELTA, base=named, depth=base[0].manifest.depth + 1)
    (folder / MANIFEST_FILE).write_bytes(encode_manifest(manifest))
    return Published(
        layers=open_layers(folder / MANIFEST_FILE),
        seconds=time.perf_counter() - started,
        cpu_s=time.process_time() - cpu_started,
    )


def forget(root: Path, version: int) -> None:
    """Remove a version's files."""
    for path in _files(root / version_folder(version)):
        path.unlink()
    (root / version_folder(version)).rmdir()


def _files(folder: Path) -> Iterator[Path]:
    yield from folder.iterdir()
