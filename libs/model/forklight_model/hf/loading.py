"""From a model folder, or from tensors under published names, to a policy: safetensors only, no code that
comes with a model.

Every tensor is accounted for: one that is missing, unknown or of another shape is an error that names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from forklight_core.errors import CheckpointError, ConfigError
from forklight_model.checkpoint import check_shapes, find_shards
from forklight_model.config import CONFIG_FILE, read_config_file
from forklight_model.hf.checks import check_policy
from forklight_model.hf.config import native_config, read_hf_config
from forklight_model.hf.install import require_transformers
from forklight_model.hf.policy import HfPolicy
from forklight_model.parts import PartsReader, StateKey, has_parts


def load_hf_policy(
    directory: str | Path, dtype: torch.dtype = torch.float32, *, device: torch.device | str = "cpu"
) -> HfPolicy:
    """Read a model folder or a checkpoint, and hold it against transformers' own forward pass."""
    directory = Path(directory)
    require_transformers()
    mapping = read_config_file(directory / CONFIG_FILE)
    read_hf_config(mapping)  # a refused model costs no reading of weights
    if has_parts(directory):
        return _from_parts(mapping, directory).to(device=device, dtype=dtype)
    tensors = read_tensors(find_shards(directory))
    return build_hf_policy(mapping, tensors, dtype=dtype, device=device, where=str(directory))


def build_hf_policy(
    mapping: Mapping[str, object],
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    where: str,
) -> HfPolicy:
    """A policy with these tensors. `where` names their source in errors."""
    config = read_hf_config(mapping)
    native = _fill(mapping, tensors, dtype, where)
    policy = HfPolicy(native, config).to(device=device, dtype=dtype)
    check_policy(policy)
    return policy


def fresh_hf_policy(mapping: Mapping[str, object], seed: int, dtype: torch.dtype = torch.float32) -> HfPolicy:
    """Random weights, as transformers draws them."""
    native = native_config(mapping)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HfPolicy(_model_class(native)(native), read_hf_config(mapping)).to(dtype)


def read_tensors(shards: Mapping[Path, Sequence[str]]) -> dict[str, Tensor]:
    """All tensors of some files. Their bytes are read when they are used."""
    tensors: dict[str, Tensor] = {}
    for path, names in shards.items():
        try:
            with safe_open(path, framework="pt") as opened:
                for name in names:
                    tensors[name] = opened.get_tensor(name)
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} is named by the index but does not exist") from error
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} is truncated or corrupt ({error}); fetch or write it again"
            ) from error
    return tensors


def _from_parts(mapping: Mapping[str, object], directory: Path) -> HfPolicy:
    """A trainer's checkpoint: its state is of parameters, by their names in the module."""
    policy = fresh_hf_policy(mapping, seed=0)
    if fixed := sorted(
        policy.state_dict().keys() - dict(policy.named_parameters(remove_duplicate=False)).keys()
    ):
        raise CheckpointError(
            f"{directory}: a checkpoint holds what is learned, and {policy.config.architecture} also has "
            f"{', '.join(fixed[:4])}: start from the run's final/ or a published version instead"
        )
    with PartsReader(directory) as reader, torch.no_grad():
        check_shapes(reader, policy.parameter_shapes)
        for name, parameter in policy.named_parameters():
            parameter.copy_(reader.read(name, StateKey.WEIGHT).view_as(parameter))
    check_policy(policy)
    return policy


def _fill(
    mapping: Mapping[str, object], tensors: Mapping[str, Tensor], dtype: torch.dtype, where: str
) -> Any:  # noqa: ANN401
    native = native_config(mapping)
    try:
        model, found = _model_class(native).from_pretrained(
            None,
            config=native,
            state_dict=dict(tensors),
            dtype=dtype,
            ignore_mismatched_sizes=True,  # they are named below instead
            output_loading_info=True,
        )
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise CheckpointError(f"{where}: transformers cannot load these weights: {error}") from error
    problems = [
        f"{what} {', '.join(sorted(map(str, found[key]))[:4])}"
        for key, what in (
            ("missing_keys", "missing"),
            ("unexpected_keys", "unknown"),
            ("mismatched_keys", "of another shape"),
            ("error_msgs", "not loaded"),
        )
        if found[key]
    ]
    if problems:
        raise CheckpointError(f"{where}: the tensors do not fit the config: " + "; ".join(problems))
    return model


def _model_class(native: Any) -> Any:  # noqa: ANN401
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        return MODEL_FOR_CAUSAL_LM_MAPPING[type(native)]
    except (KeyError, ImportError) as error:
        raise ConfigError(
            f"transformers has no causal language model for {type(native).__name__}: {error}"
        ) from error
