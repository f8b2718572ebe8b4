"""From published files to a model: names and shapes checked before, bytes while they are read, values behind.

A process that holds one part of the model checks the values of its part, and proves its share of the bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from forklight_core.errors import ConfigError, WeightsError
from forklight_kernels.contract import contract_hash
from forklight_model.config import ModelConfig
from forklight_model.model import HybridModel
from forklight_model.parallel import Gather
from forklight_model.shard import WHOLE, Shard
from forklight_rollout.adapters.filling import fill_tensors
from forklight_rollout.weights.manifest import PublishedWeights

CHUNK_ELEMENTS = 1 << 18
"""As much as stays in a core's cache."""
EXPONENTS = {
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float16: (torch.int16, 0x7C00),
    torch.float32: (torch.int32, 0x7F800000),
}
"""The bits of numbers without their sign; from here on they are infinite, or none."""


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
    with torch.device("meta"):  # tensors without memory, which gets them in their type and place at once
        model = HybridModel(config, is_initialized=False, shard=shard, gather=gather)
    model.to(dtype)
    _check_names(weights, model)
    model.to_empty(device=device)
    fill_tensors(weights, model.state_dict(), shard)
    check_model(weights, model)
    return model.requires_grad_(False)


def read_tensors(weights: PublishedWeights) -> dict[str, Tensor]:
    """Every tensor of the version in host memory, proven: for models that are built from tensors."""
    tensors = {
        name: torch.empty(entry.shape, dtype=getattr(torch, entry.dtype))
        for name, entry in weights.manifest.tensors.items()
    }
    fill_tensors(weights, tensors)
    return tensors


def _check_kernels(weights: PublishedWeights) -> None:
    """Kernels that round otherwise would make every log-prob a little wrong, and nobody would say so."""
    if weights.manifest.kernels != contract_hash():
        raise WeightsError(
            f"version {weights.version} in {weights.folder} was made under the kernels' contract "
            f"{weights.manifest.kernels!r}, this pod computes under {contract_hash()!r}: bring trainer and "
            "rollout pods to the same release"
        )


def _check_names(weights: PublishedWeights, model: HybridModel) -> None:
    """Names and shapes of all tensors, before any of them is read."""
    wanted = {name: model.shard.whole_shape(name, part.shape) for name, part in model.state_dict().items()}
    promised = weights.manifest.tensors
    problems = [f"{name} is missing" for name in sorted(wanted.keys() - promised.keys())]
    problems += [f"{name} is not in the model" for name in sorted(promised.keys() - wanted.keys())]
    problems += [
        f"{name} is {promised[name].shape}, the model has {wanted[name]}"
        for name in sorted(promised.keys() & wanted.keys())
        if promised[name].shape != wanted[name]
    ]
    _refuse(weights, problems)


@torch.no_grad()
def check_model(weights: PublishedWeights, model: HybridModel) -> None:
    """WeightsError for values that are not finite. Stacks first: they are few, and published names many."""
    if not bool(torch.stack([_all_finite(parameter.detach()) for parameter in model.parameters()]).all()):
        check_values(weights, model.state_dict())


def check_values(weights: PublishedWeights, tensors: Mapping[str, Tensor]) -> None:
    """WeightsError for values that are not finite: of this process's part."""
    # Asked once for all: each answer would wait for a GPU.
    is_sound = torch.stack([_all_finite(tensor) for tensor in tensors.values()]).tolist()
    sound = zip(tensors, is_sound, strict=True)
    _refuse(
        weights, [f"{name} holds values that are not finite" for name, is_finite in sound if not is_finite]
    )


def _all_finite(tensor: Tensor) -> Tensor:
    """On a CPU torch's own answer takes twenty times as long as a look at the exponents, piece by piece."""
    if tensor.device.type != "cpu" or tensor.dtype not in EXPONENTS or not tensor.numel():
        return torch.isfinite(tensor).all()
    bits, full = EXPONENTS[tensor.dtype]
    rows = tensor.view(bits) if tensor.dim() else tensor.view(bits)[None]
    num_rows = max(1, CHUNK_ELEMENTS * len(rows) // rows.numel())
    parts = (rows[start : start + num_rows] for start in range(0, len(rows), num_rows))
    largest = [(part & torch.iinfo(bits).max).amax() for part in parts]
    return torch.stack(largest).amax() < full


def _refuse(weights: PublishedWeights, problems: list[str]) -> None:
    if problems:
        raise WeightsError(
            f"version {weights.version} in {weights.folder} is not what this pod can use: "
            + "; ".join(problems[:4])
            + (f" and {len(problems) - 4} more" if len(problems) > 4 else "")
        )
