"""Weights published as the trainer does it, for engines under test: a manifest, one shard, verified."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from forklight_model.checkpoint import published_tensors
from forklight_model.model import HybridModel
from forklight_model.sizes import SIZES
from forklight_rollout.weights.manifest import PublishedWeights
from services.rollout.tests.versions import SHARD, verify, write_version

__all__ = ["SHARD", "nano_model", "publish", "publish_tensors"]


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
    root: Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, object],
    version: int,
    *,
    kernels: str | None = None,
) -> PublishedWeights:
    """One version of any model, read back through its manifest."""
    return verify(write_version(root, tensors, config, version, kernels=kernels))
