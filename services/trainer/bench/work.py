"""Batches of random samples as a buffer would lease them, and engines with random weights.

Legend: R response tokens.
"""

# ruff: noqa: INP001
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import paths  # noqa: F401
import torch

from forklight_core.runfile import RunFile
from forklight_model.model import HybridModel, Recomputation
from forklight_model.planning.counts import forward_flops
from forklight_model.sizes import SIZES
from forklight_trainer.adapters.torch_plain import OptimizerSettings, TorchEngine
from forklight_trainer.batches.batch import TrainingBatch, TrainingGroup, TrainingSample
from forklight_trainer.ports import TrainEngine
from forklight_trainer.steps.step import PolicyState, StepOutcome, step_settings, train_step

ADAM = OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0)
CONTRACT = "bench"
PROMPT_TOKENS = 128
PACKED = (1024, 2048, 1024, 4096, 2048, 6144, 1024, 4096, 2048, 1024, 8192)
"""32 Ki tokens of prompts and responses with a long tail, as a batch of reasoning has."""
TRAINING_FLOPS = 3
"""Forward, and twice that for the gradients. What is computed again is not counted."""


def draw_model(size: str, device: str = "cuda") -> HybridModel:
    """fp32, drawn on the device: three billion numbers take a CPU minutes."""
    with torch.device(device):
        model = HybridModel(SIZES[size], is_initialized=False)
    model.initialize(torch.Generator(device).manual_seed(0))
    return model


def open_engine(size: str, recomputation: Recomputation | None, device: str = "cuda") -> TorchEngine:
    model = draw_model(size, device)
    model.recomputation = recomputation
    return TorchEngine(model, ADAM, dtype=torch.bfloat16, device=device)


def draw_batch(lengths: tuple[int, ...], vocab_size: int, step: int = 1, seed: int = 0) -> TrainingBatch:
    """One group; every sample a prompt of 128 tokens and a response that fills the rest of its length."""
    chance = np.random.default_rng(seed)
    samples = []
    for place, length in enumerate(lengths):
        num_response = length - PROMPT_TOKENS
        samples.append(
            TrainingSample(
                sample_id=f"bench/g0/{place}",
                prompt_ids=chance.integers(0, vocab_size, PROMPT_TOKENS).astype(np.int32),
                response_ids=chance.integers(0, vocab_size, num_response).astype(np.int32),
                behaviour_logprobs=np.full(num_response, -np.log(vocab_size), dtype=np.float32),
                versions=np.zeros(num_response, dtype=np.int64),
                reward=float(place % 2),
                contract=CONTRACT,
            )
        )
    group = TrainingGroup(group_id="bench/g0", samples=tuple(samples))
    return TrainingBatch(batch_id=f"bench/b{step}", step=step, groups=(group,))


def settings_for(pack_tokens: int) -> RunFile:
    run_file = RunFile()
    longest = pack_tokens - PROMPT_TOKENS
    return run_file.model_copy(
        update={
            "trainer": run_file.trainer.model_copy(update={"pack_tokens": pack_tokens}),
            "sampling": run_file.sampling.model_copy(update={"max_new_tokens": longest}),
        }
    )


def learn(engine: TrainEngine, batch: TrainingBatch, pack_tokens: int) -> StepOutcome:
    """The very step of the loop: checks, advantages, packing, loss, gradient, measurement, update."""
    policy = PolicyState(version=1, is_published=False, contract=CONTRACT, find_version=_no_version)
    return train_step(engine, batch, step_settings(settings_for(pack_tokens)), policy)


def _no_version(version: int) -> Path | None:
    return None


def step_flops(size: str, lengths: tuple[int, ...]) -> float:
    """Of the model for these samples, as `forklight plan` counts: a token sees half its sample."""
    config = SIZES[size]
    return TRAINING_FLOPS * sum(length * forward_flops(config, length / 2) for length in lengths)


def with_step(batch: TrainingBatch, step: int) -> TrainingBatch:
    return replace(batch, step=step)
