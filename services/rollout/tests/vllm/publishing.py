"""Weights published as the trainer does it, for engines under test: a manifest, one shard, verified."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import blake3
import torch
from safetensors.torch import save_file
from torch import Tensor

from forklight_kernels.contract import contract_hash
from forklight_model.checkpoint import published_tensors
from forklight_model.model import HybridModel
from forklight_model.sizes import SIZES
from forklight_rollout.weights.manifest import PublishedWeights, verify_weights

RUN_ID = "test-run"
SHARD = "model-00001-of-00001.safetensors"


def nano_model(seed: int) -> HybridModel:
    """Random weights, sharpened so that distributions are neither flat nor certain."""
    model = HybridModel(SIZES["nano"])
    model.initialize(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.lm_head.weight.mul_(20.0)
    return model.requires_grad_(False)


def publish(root: Path, model: HybridModel, version: int) -> PublishedWeights:
    """One version of a model of ours."""
    tensors = {name: tensor.clone() for name, tensor in published_tensors(model)}
    return publish_tensors(root, tensors, model.config.to_published(), version)


def publish_tensors(
    root: Path, tensors: Mapping[str, Tensor], config: Mapping[str, object], version: int
) -> PublishedWeights:
    """One version of any model, read back through its manifest."""
    folder = root / f"v{version:08d}"
    folder.mkdir(parents=True)
    save_file(dict(tensors), folder / SHARD)
    data = (folder / SHARD).read_bytes()
    manifest = {
        "schema_version": 1,
        "run_id": RUN_ID,
        "version": version,
        "step": version,
        "kind": "full",
        "contract": "test-contract",
        "kernels": contract_hash(),
        "config": dict(config),
        "shards": [{"file": SHARD, "size_bytes": len(data), "blake3": blake3.blake3(data).hexdigest()}],
        "tensors": {
            name: {
                "shape": list(tensor.shape),
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "shard": SHARD,
            }
            for name, tensor in tensors.items()
        },
        "probe": None,
    }
    path = folder / "manifest.json"
    path.write_text(json.dumps(manifest, sort_keys=True, separators=(",", ":")))
    manifest_id = "b3:" + blake3.blake3(path.read_bytes()).hexdigest()
    return verify_weights(path, manifest_id, version=version, run_id=RUN_ID)
