"""Model folders out of an engine's tensors: for versions, and for models that are exported."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from forklight_core.errors import PreconditionError
from forklight_core.weights.files import write_whole
from forklight_core.weights.manifest import MANIFEST_FILE, TensorEntry
from forklight_core.weights.reading import open_layers, verify_tensors
from forklight_model.checkpoint import INDEX_FILE
from forklight_model.config import CONFIG_FILE
from forklight_model.policies import load_policy
from forklight_model.policy import Policy
from forklight_trainer.durable import canonical_json
from forklight_trainer.ports import TrainEngine
from forklight_trainer.publishing.plan import SinkPlan


def export_model(engine: TrainEngine, folder: Path) -> None:
    """Write the weights as rollout computes with them into a folder that exists or is made here."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = by_name(engine.publish(SinkPlan(folder=folder)))
    describe_model(folder, engine.config.to_published(), {name: each.file for name, each in entries.items()})


def describe_model(folder: Path, config: Mapping[str, object], files: Mapping[str, str]) -> None:
    """The files beside safetensors that make a model folder. `files`: where each tensor is."""
    num_bytes = sum((folder / file).stat().st_size for file in set(files.values()))
    index = {"metadata": {"total_size": num_bytes}, "weight_map": dict(sorted(files.items()))}
    (folder / CONFIG_FILE).write_bytes(canonical_json(config))
    (folder / INDEX_FILE).write_bytes(canonical_json(index))


def by_name(entries: Sequence[TensorEntry]) -> dict[str, TensorEntry]:
    """All ranks' entries; a tensor that two ranks published is an error."""
    found = {entry.name: entry for entry in entries}
    if len(found) != len(entries):
        names = [entry.name for entry in entries]
        twice = sorted({name for name in found if names.count(name) > 1})
        raise PreconditionError(f"{', '.join(twice[:4])} came from two ranks: a tensor is published by one")
    return found


def load_version(folder: Path, dtype: torch.dtype, *, device: torch.device | str = "cpu") -> Policy:
    """The policy of a version's folder, every tensor proven; a delta is put together beside it."""
    layers = open_layers(folder / MANIFEST_FILE)
    if layers[0].manifest.base is None:
        verify_tensors(layers)
        return load_policy(folder, dtype, device=device)
    with tempfile.TemporaryDirectory(prefix=".whole.", dir=folder.parent) as name:
        files = {name: path.name for name, path in write_whole(layers, Path(name)).items()}
        describe_model(Path(name), json.loads(layers[0].manifest.config_json), files)
        return load_policy(name, dtype, device=device)
