"""Looking at new weights before vLLM touches them: a swap that began cannot be taken back."""

from __future__ import annotations

import json

import numpy as np
import torch

from forklight_core.errors import WeightsError
from forklight_core.weights.reading import PIECE_BYTES, TensorProof, VersionReader
from forklight_rollout.weights.manifest import PublishedWeights


def check_successor(weights: PublishedWeights, running: PublishedWeights) -> None:
    """WeightsError unless these are other values of the very tensors that run."""
    new, old = weights.manifest, running.manifest
    if json.loads(new.config_json) != json.loads(old.config_json):
        raise _refused(
            weights, "another architecture than the one that runs: restart the pods to change the model"
        )
    if new.kernels != old.kernels:
        raise _refused(
            weights, f"made under the kernels' contract {new.kernels!r}, what runs under {old.kernels!r}"
        )
    shapes = {name: entry.shape for name, entry in new.tensors.items()}
    if shapes != {name: entry.shape for name, entry in old.tensors.items()}:
        raise _refused(weights, "of other names or shapes than the tensors that run")
    check_values(weights)


def check_values(weights: PublishedWeights) -> None:
    """WeightsError unless every tensor is what the manifest promises, and finite. Piece by piece."""
    reader, buffer = VersionReader(weights.layers), np.empty(PIECE_BYTES, np.uint8)
    for entry in weights.manifest.tensors.values():
        proof, is_finite = TensorProof(entry), True
        for _, piece in reader.open(entry.name).pieces(buffer):
            proof.take(piece)
            values = torch.from_numpy(np.array(piece)).view(getattr(torch, entry.dtype))
            is_finite &= bool(torch.isfinite(values).all())
        proof.check()
        if not is_finite:
            raise _refused(weights, f"not usable: {entry.name} holds values that are not finite")


def _refused(weights: PublishedWeights, what: str) -> WeightsError:
    return WeightsError(
        f"version {weights.version} in {weights.folder} is {what}; the pod keeps the weights it has"
    )
