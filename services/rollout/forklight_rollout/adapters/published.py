"""From verified files to a model: names, shapes and values of all tensors checked against the manifest.

A process that holds one part of the model reads, and checks the values of, its part alone.
"""

from __future__ import annotations

import json

import torch
from safetensors import SafetensorError, safe_open

from forklight_core.errors import CheckpointError, ConfigError, WeightsError
from forklight_kernels.contract import contract_hash
from forklight_model.checkpoint import load_published_files
from forklight_model.config import ModelConfig
from forklight_model.model import HybridModel
from forklight_model.parallel import Gather
from forklight_model.shard import WHOLE, Shard
from forklight_rollout.weights.manifest import PublishedWeights

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Safetensors' names of types, and torch's."""


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
    shard: Shard = WHOLE,
    gather: Gather | None = None,
) -> HybridModel:
    """A new model with these weights, or one part of it; WeightsError when anything is not as promised."""
    _check_kernels(weights)
    config = read_config(weights)
    if expected is not None and config != expected:
        raise WeightsError(
            f"version {weights.version} in {weights.folder} is another architecture than the one that runs: "
            "restart the rollout pods to change the model"
        )
    _check_headers(weights)
    with torch.device("meta"):  # tensors without memory, which gets them in their type and place at once
        model = HybridModel(config, is_initialized=False, shard=shard, gather=gather)
    model.to(dtype).to_empty(device=device)
    try:
        load_published_files(model, [weights.folder / each.file for each in weights.manifest.shards])
    except CheckpointError as error:
        raise WeightsError(f"version {weights.version} in {weights.folder}: {error}") from error
    _check_values(weights, model)
    return model.requires_grad_(False)


def _check_kernels(weights: PublishedWeights) -> None:
    """Kernels that round otherwise would make every log-prob a little wrong, and nobody would say so."""
    if weights.manifest.kernels != contract_hash():
        raise WeightsError(
            f"version {weights.version} in {weights.folder} was made under the kernels' contract "
            f"{weights.manifest.kernels!r}, this pod computes under {contract_hash()!r}: bring trainer and "
            "rollout pods to the same release"
        )


def _check_headers(weights: PublishedWeights) -> None:
    """Names, shapes and types of all tensors, before any of them is read."""
    promised, found = weights.manifest.tensors, _read_headers(weights)
    problems = [f"{name} is missing" for name in sorted(promised.keys() - found.keys())]
    problems += [f"{name} is not in the manifest" for name in sorted(found.keys() - promised.keys())]
    for name in sorted(promised.keys() & found.keys()):
        dtype, shape = found[name]
        if (shape, dtype) != (promised[name].shape, promised[name].dtype):
            problems.append(
                f"{name} is {dtype} {shape}, promised {promised[name].dtype} {promised[name].shape}"
            )
    _refuse(weights, problems)


def _read_headers(weights: PublishedWeights) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor in the files."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in weights.manifest.shards:
        path = weights.folder / file.file
        try:
            with safe_open(path, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118
                    part = opened.get_slice(name)
                    dtype = str(part.get_dtype())
                    found[name] = (DTYPES.get(dtype, dtype), tuple(part.get_shape()))
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"weights file {path} is no readable safetensors file: {error}") from error
    return found


@torch.no_grad()
def _check_values(weights: PublishedWeights, model: HybridModel) -> None:
    """Of this process's part."""
    tensors = model.state_dict()
    # Asked once for all: each answer would wait for a GPU.
    is_sound = torch.stack([torch.isfinite(tensor).all() for tensor in tensors.values()]).tolist()
    sound = zip(tensors, is_sound, strict=True)
    _refuse(
        weights, [f"{name} holds values that are not finite" for name, is_finite in sound if not is_finite]
    )


def _refuse(weights: PublishedWeights, problems: list[str]) -> None:
    if problems:
        raise WeightsError(
            f"version {weights.version} in {weights.folder} is not what its manifest promises: "
            + "; ".join(problems[:4])
            + (f" and {len(problems) - 4} more" if len(problems) > 4 else "")
        )
