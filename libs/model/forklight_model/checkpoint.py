"""Model folders in the published layout: config.json and safetensors shards with an index.

Owns reading, writing and naming. A folder appears whole or not at all; a name, shape or byte that is wrong
is an error that names it.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from forklight_core.errors import CheckpointError
from forklight_model.config import CONFIG_FILE, load_config
from forklight_model.model import HybridModel

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
DEFAULT_SHARD_BYTES = 5 * 1024**3


def published_tensors(model: HybridModel) -> Iterator[tuple[str, Tensor]]:
    """Every parameter under its published name, detached; views into the model, not copies."""
    yield from model.state_dict().items()


def load_published_tensors(model: HybridModel, mapping: Mapping[str, Tensor]) -> None:
    """Copy tensors into the model in place. All names and shapes are checked before the first byte moves."""
    targets = dict(published_tensors(model))
    problems = _name_problems(set(targets), set(mapping))
    for name in sorted(targets.keys() & mapping.keys()):
        if mapping[name].shape != targets[name].shape:
            problems.append(f"{name} is {tuple(mapping[name].shape)}, expected {tuple(targets[name].shape)}")
    if problems:
        raise CheckpointError("the tensors do not fit the model: " + "; ".join(problems))
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(mapping[name])


def load_model(directory: str | Path, dtype: torch.dtype = torch.float32) -> HybridModel:
    """Read a model folder (sharded or a single file) into a new model."""
    directory = Path(directory)
    model = empty_model(load_config(directory), dtype)
    shards = _shards(directory)
    targets = dict(published_tensors(model))
    problems = _name_problems(set(targets), {name for names in shards.values() for name in names})
    if problems:
        raise CheckpointError(f"{directory} does not fit its config: " + "; ".join(problems))
    for path, names in shards.items():
        _copy_shard(path, {name: targets[name] for name in names})
    return model


