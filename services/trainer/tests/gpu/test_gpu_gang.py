"""A sharded trainer of two and four GPUs against one GPU, over NCCL."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from forklight_trainer.initial import DTYPES, initial_model
from services.trainer.tests.gang import run_gang, same_bits
from services.trainer.tests.gang_rank import Job
from services.trainer.tests.start_rank import Start

pytestmark = pytest.mark.gpu

BF16 = {"dtype": "bfloat16", "clip": 1e9}
JOBS = (
    Job(name="zero1", zero_stage=1, **BF16),
    Job(name="zero2-tokens", zero_stage=2, sequence_parallel=2, **BF16),
    Job(name="zero3", zero_stage=3, **BF16),
    Job(name="zero3-experts", zero_stage=3, expert_parallel=2, **BF16),
    Job(name="zero1-experts", zero_stage=1, expert_parallel=2, **BF16),
    Job(
        name="zero3-all",
        zero_stage=3,
        sequence_parallel=2,
        expert_parallel=2,
        recomputes=True,
        adds_router_loss=True,
        **BF16,
    ),
)
FOUR_JOBS = (
    Job(name="zero1", zero_stage=1, **BF16),
    Job(name="zero2-tokens", zero_stage=2, sequence_parallel=4, **BF16),
    Job(name="zero3-experts", zero_stage=3, expert_parallel=4, **BF16),
    Job(
        name="zero3-two-by-two",
        zero_stage=3,
        sequence_parallel=2,
        expert_parallel=2,
        recomputes=True,
        adds_router_loss=True,
        **BF16,
    ),
)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_learn_as_one(tmp_path: Path) -> None:
    _learns_as_one(run_gang(tmp_path, JOBS, num_ranks=2, device="cuda"))


@pytest.mark.skipif(torch.cuda.device_count() < 4, reason="needs four GPUs")
def test_four_gpus_learn_as_one(tmp_path: Path) -> None:
    _learns_as_one(run_gang(tmp_path, FOUR_JOBS, num_ranks=4, device="cuda"))


def _learns_as_one(found: dict[str, dict[str, float]]) -> None:
    for name, figures in found.items():
        # The very bits of one GPU, before the first update.
        assert figures["first_logprobs"] == 0.0, (name, figures)
        # After it, bf16 sums over processes in another order, and a step of 1e-3 magnifies that.
        assert figures["loss"] < 0.02 and figures["norm"] < 0.02, (name, figures)
        assert figures["resumed_norm"] == 0.0 and figures["resumed_weights"] == 0.0, (name, figures)
        assert figures["refuses_nan"] == 1.0, (name, figures)
        assert figures["published"] < 0.02, (name, figures)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_start_with_the_bits_of_one_process(tmp_path: Path) -> None:
    jobs = (
        Start(name="zero3", zero_stage=3, dtype="bfloat16", seed=4),
        Start(name="zero3-experts", zero_stage=3, expert_parallel=2, dtype="bfloat16", seed=4),
        Start(name="zero1-experts", zero_stage=1, expert_parallel=2, dtype="bfloat16", seed=4),
        Start(
            name="restored", zero_stage=3, dtype="bfloat16", seed=4, restores=str(tmp_path / "zero3-experts")
        ),
    )
    run_gang(tmp_path, jobs, num_ranks=2, device="cuda")
    for job in jobs:
        same_bits(tmp_path / job.name, initial_model(job.run_file(2)), DTYPES[job.dtype])
