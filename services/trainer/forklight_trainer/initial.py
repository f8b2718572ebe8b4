"""The weights a run starts from: a checkpoint folder, or fresh ones of a named size by the run's seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from forklight_core.runfile.schema import RunFile
from forklight_model.checkpoint import load_model
from forklight_model.model import HybridModel
from forklight_model.policies import load_policy_config
from forklight_model.policy import Policy, PolicyConfig
from forklight_model.sizes import SIZES
from forklight_model.stretches import FreshWeights, WeightSource, open_weights
from forklight_model.tokenizer import Tokenizer, build_character_tokenizer, load_tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def initial_folder(run_file: RunFile) -> str:
    """The folder a run starts from; empty for fresh weights."""
    return run_file.model.hf or run_file.model.path


def initial_config(run_file: RunFile) -> PolicyConfig:
    """What the run trains, without its weights."""
    folder = initial_folder(run_file)
    return load_policy_config(folder) if folder else SIZES[run_file.model.size]


def initial_policy(run_file: RunFile) -> Policy:
    """fp32 weights to start from, of whichever kind of model; what the run computes in is the engine's."""
    if run_file.model.hf:
        from forklight_model.hf.loading import load_hf_policy

        return load_hf_policy(run_file.model.hf, torch.float32)
    return initial_model(run_file)


def initial_model(run_file: RunFile) -> HybridModel:
    """The same of a model of ours."""
    if run_file.model.path:
        return load_model(run_file.model.path, torch.float32)
    model = HybridModel(SIZES[run_file.model.size], is_initialized=False)
    model.initialize(_generator(run_file))
    return model


@contextmanager
def initial_weights(run_file: RunFile) -> Iterator[WeightSource]:
    """The numbers of `initial_model` by stretches: for a process that keeps some of them, and builds none."""
    if run_file.model.path:
        with open_weights(run_file.model.path) as weights:
            yield weights
    else:
        yield FreshWeights(SIZES[run_file.model.size], _generator(run_file))


def _generator(run_file: RunFile) -> torch.Generator:
    return torch.Generator().manual_seed(run_file.run.seed)


def initial_tokenizer(run_file: RunFile) -> Tokenizer:
    """The tokenizer of the starting checkpoint; fresh models have the character tokenizer."""
    folder = initial_folder(run_file)
    return load_tokenizer(folder, chat=run_file.model.chat) if folder else build_character_tokenizer()
