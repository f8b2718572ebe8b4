"""The weights a run starts from: a checkpoint folder, or fresh ones of a named size by the run's seed."""

from __future__ import annotations

import torch

from forklight_core.runfile.schema import RunFile
from forklight_model.checkpoint import load_model
from forklight_model.model import HybridModel
from forklight_model.sizes import SIZES
from forklight_model.tokenizer import Tokenizer, build_character_tokenizer, load_tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def initial_model(run_file: RunFile) -> HybridModel:
    """fp32 weights to start from; what the run computes in is the engine's business."""
    if run_file.model.path:
        return load_model(run_file.model.path, torch.float32)
    config = SIZES[run_file.model.size]
    model = HybridModel(config, is_initialized=False)
    model.initialize(torch.Generator().manual_seed(run_file.run.seed))
    return model


def initial_tokenizer(run_file: RunFile) -> Tokenizer:
    """The tokenizer of the starting checkpoint; fresh models have the character tokenizer."""
    return load_tokenizer(run_file.model.path) if run_file.model.path else build_character_tokenizer()
