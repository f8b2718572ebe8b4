"""From verified files to a model: names, shapes and values of all tensors checked against the manifest."""

from __future__ import annotations

import json

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from forklight_core.errors import CheckpointError, ConfigError, WeightsError
from forklight_kernels.contract import contract_hash
from forklight_model.checkpoint import load_published_tensors
from forklight_model.config import ModelConfig
from forklight_model.model import HybridModel
from forklight_rollout.manifest import PublishedWeights


def read_config(weights: PublishedWeights) -> ModelConfig:
    """The model configuration of published weights."""
    try:
        return ModelConfig.from_published(json.loads(weights.manifest.config_json))
    except ConfigError as error:
        raise WeightsError(f"version {weights.version} in {weights.folder}: {error}") from error


def load_weights(
    weights: PublishedWeights,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    expected: ModelConfig | None = None,
) -> HybridModel:
    """A new model with these weights; WeightsError when anything is not as promised."""
    _check_kernels(weights)
    config = read_config(weights)
    if expected is not None and config != expected:
        raise WeightsError(
            f"version {weights.version} in {weights.folder} is another architecture than the one that runs: "
            "restart the rollout pods to change the model"
        )
    model = HybridModel(config, is_initialized=False).to(dtype)
    try:
        load_published_tensors(model, _read_tensors(weights))
    except CheckpointError as error:
        raise WeightsError(f"version {weights.version} in {weights.folder}: {error}") from error
    return model.to(device).requires_grad_(False)


def _check_kernels(weights: PublishedWeights) -> None:
    """Kernels that round otherwise would make every log-prob a little wrong, and nobody would say so."""
    if weights.manifest.kernels != contract_hash():
        raise WeightsError(
            f"version {weights.version} in {weights.folder} was made under the kernels' contract "
            f"{weights.manifest.kernels!r}, this pod computes under {contract_hash()!r}: bring trainer and "
            "rollout pods to the same release"
        )


def _read_tensors(weights: PublishedWeights) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for shard in weights.manifest.shards:
        path = weights.folder / shard.file
        try:
            with safe_open(path, framework="pt") as opened:
                tensors.update({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"weights file {path} is no readable safetensors file: {error}") from error
    _check_tensors(weights, tensors)
    return tensors


def _check_tensors(weights: PublishedWeights, tensors: dict[str, Tensor]) -> None:
    promised = weights.manifest.tensors
    problems = [f"{name} is missing" for name in sorted(promised.keys() - tensors.keys())]
    problems += [f"{name} is not in the manifest" for name in sorted(tensors.keys() - promised.keys())]
    for name in sorted(promised.keys() & tensors.keys()):
        shape, dtype = tuple(tensors[name].shape), str(tensors[name].dtype).removeprefix("torch.")
        if (shape, dtype) != (promised[name].shape, promised[name].dtype):
            problems.append(
                f"{name} is {dtype} {shape}, promised {promised[name].dtype} {promised[name].shape}"
            )
        elif not bool(torch.isfinite(tensors[name]).all()):
            problems.append(f"{name} holds values that are not finite")
    if problems:
        raise WeightsError(
            f"version {weights.version} in {weights.folder} is not what its manifest promises: "
            + "; ".join(problems[:4])
            + (f" and {len(problems) - 4} more" if len(problems) > 4 else "")
        )
