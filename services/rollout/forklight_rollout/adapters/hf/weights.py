"""From verified files to a transformers policy: release, names, shapes, values held against the manifest."""

from __future__ import annotations

import json

import torch

from forklight_core.errors import CheckpointError, ConfigError, WeightsError
from forklight_model.hf.config import HfConfig, read_hf_config
from forklight_model.hf.install import numerics
from forklight_model.hf.loading import build_hf_policy
from forklight_model.hf.policy import HfPolicy
from forklight_rollout.adapters.published import check_values, read_tensors
from forklight_rollout.weights.manifest import PublishedWeights


def load_hf_weights(
    weights: PublishedWeights,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    expected: HfConfig | None = None,
) -> HfPolicy:
    """A new policy with these weights; WeightsError when anything is not as promised."""
    where = f"version {weights.version} in {weights.folder}"
    if weights.manifest.kernels != numerics():
        raise WeightsError(
            f"{where} was made by {weights.manifest.kernels!r}, this pod computes with {numerics()!r}: bring "
            "trainer and rollout pods to the same release of transformers"
        )
    mapping = json.loads(weights.manifest.config_json)
    try:
        config = read_hf_config(mapping)
        if expected is not None and config != expected:
            raise WeightsError(
                f"{where} is another architecture than the one that runs: restart the rollout pods to change "
                "the model"
            )
        tensors = read_tensors(weights)
        check_values(weights, tensors)
        policy = build_hf_policy(mapping, tensors, dtype=dtype, device=device, where=where)
    except (CheckpointError, ConfigError) as error:
        raise WeightsError(f"{where}: {error}") from error
    return policy.requires_grad_(False)
