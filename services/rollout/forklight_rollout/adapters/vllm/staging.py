"""Looking at new weights before vLLM touches them: a swap that began cannot be taken back."""

from __future__ import annotations

import json

import torch
from safetensors import SafetensorError, safe_open

from forklight_core.errors import WeightsError
from forklight_rollout.adapters.vllm.model_folder import shard_paths
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
    """WeightsError unless the shards hold what the manifest promises, all of it finite. Tensor by tensor."""
    promised = dict(weights.manifest.tensors)
    for path in shard_paths(weights):
        try:
            with safe_open(path, framework="pt") as shard:
                for name in shard.keys():  # noqa: SIM118  # not a mapping
                    entry, tensor = promised.pop(name, None), shard.get_tensor(name)
                    found = (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
                    if entry is None or found != (entry.shape, entry.dtype):
                        raise _refused(
                            weights, f"not what its manifest promises: {name} is {found[1]} {found[0]}"
                        )
                    if not bool(torch.isfinite(tensor).all()):
                        raise _refused(weights, f"not usable: {name} holds values that are not finite")
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"weights file {path} is no readable safetensors file: {error}") from error
    if promised:
        raise _refused(weights, f"not complete: {', '.join(sorted(promised)[:4])} missing from its shards")


def _refused(weights: PublishedWeights, what: str) -> WeightsError:
    return WeightsError(
        f"version {weights.version} in {weights.folder} is {what}; the pod keeps the weights it has"
    )
