"""Which kind of policy a folder or a configuration is of, and how it is opened. The only place that asks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from forklight_model.checkpoint import load_model
from forklight_model.config import ARCHITECTURE, CONFIG_FILE, ModelConfig, load_config, read_config_file
from forklight_model.model import HybridModel
from forklight_model.policy import Policy, PolicyConfig

if TYPE_CHECKING:
    from forklight_model.decoding import Decoding
    from forklight_model.parity import NumericMode


def load_policy(
    directory: str | Path, dtype: torch.dtype = torch.float32, *, device: torch.device | str = "cpu"
) -> Policy:
    """The policy of a model folder or a checkpoint, whichever kind its config.json is of."""
    if _is_hybrid(read_config_file(Path(directory) / CONFIG_FILE)):
        return load_model(directory, dtype, device=device)
    from forklight_model.hf.loading import load_hf_policy

    return load_hf_policy(directory, dtype, device=device)


def load_policy_config(directory: str | Path) -> PolicyConfig:
    """What a folder's config.json says."""
    mapping = read_config_file(Path(directory) / CONFIG_FILE)
    if _is_hybrid(mapping):
        return load_config(directory)
    from forklight_model.hf.config import read_hf_config

    return read_hf_config(mapping)


def open_decoding(policy: Policy, max_tokens: int) -> Decoding:
    """Generate one sequence of at most so many tokens."""
    if isinstance(policy, HybridModel):
        from forklight_model.decoding import HybridDecoding

        return HybridDecoding(policy, max_tokens)
    from forklight_model.hf.generation import HfDecoding
    from forklight_model.hf.policy import HfPolicy

    assert isinstance(policy, HfPolicy)
    return HfDecoding(policy, max_tokens)


def numeric_mode_of(config: PolicyConfig, device: str, dtype: torch.dtype) -> NumericMode:
    """Whether rollout's bits can be the trainer's: the self-test's answer for our own model."""
    if isinstance(config, ModelConfig):
        from forklight_model.parity import check_numeric_mode

        return check_numeric_mode(device, dtype)
    from forklight_model.hf.numerics import hf_numeric_mode

    return hf_numeric_mode(config, device)


def _is_hybrid(mapping: Mapping[str, object]) -> bool:
    """Ours by its architecture, or by the lack of any other: then the error says what a config.json holds."""
    return mapping.get("architectures") == [ARCHITECTURE] or "model_type" not in mapping
