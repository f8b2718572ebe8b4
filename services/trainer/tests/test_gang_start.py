"""How a sharded trainer starts: with the bits of one process, and without a whole model in any of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from forklight_model.checkpoint import load_model, save_model
from forklight_model.config import ModelConfig
from forklight_model.model import HybridModel
from forklight_model.sizes import SIZES, hybrid_layers, num_parameters
from forklight_trainer.initial import DTYPES, initial_model
from services.trainer.tests.gang import published, run_gang, same_bits
from services.trainer.tests.start_rank import Start

pytest.importorskip("deepspeed", reason="the extra deepspeed is not installed")

LARGE = replace(
    SIZES["nano"],
    hidden_size=256,
    intermediate_size=256,
    num_hidden_layers=12,
    attn_type_list=hybrid_layers(12),
    num_local_experts=8,
)
LITTLE = 1 / 4
"""Of the model in fp32."""
MEASURED = ("folder-zero3", "folder-zero3-experts")
EXACT = (
    *MEASURED,
    "fresh-zero3",
    "fresh-zero3-experts",
    "fresh-zero1-experts",
    "folder-zero2",
    "parts-zero3",
)


def make_jobs(folder: Path, nano: str, large: str) -> list[Start]:
    """Checkpoints are those that jobs before wrote, in other layouts."""
    return [
        Start(name="fresh-zero3", zero_stage=3, seed=4),
        Start(name="fresh-zero3-experts", zero_stage=3, seed=3, expert_parallel=2, dtype="bfloat16"),
        Start(name="fresh-zero1-experts", zero_stage=1, seed=5, expert_parallel=2, dtype="bfloat16"),
        Start(name="folder-zero2", zero_stage=2, path=nano),
        Start(name="folder-zero3", zero_stage=3, dtype="bfloat16", path=large),
        Start(name="folder-zero3-experts", zero_stage=3, expert_parallel=2, path=large),
        Start(name="parts-zero3", zero_stage=3, dtype="bfloat16", path=str(folder / "fresh-zero3-experts")),
        Start(name="restored", zero_stage=3, expert_parallel=2, restores=str(folder / "fresh-zero3")),
    ]


def make_folder(folder: Path, config: ModelConfig) -> str:
    model = HybridModel(config, is_initialized=False)
    model.initialize(torch.Generator().manual_seed(11))
    save_model(model, folder, max_shard_bytes=2**22)
    return str(folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What the jobs found, and the folder where each wrote what it held."""

    folder: Path
    jobs: dict[str, Start]
    found: dict[str, dict[str, float]]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Started:
    folder = tmp_path_factory.mktemp("starts")
    nano, large = make_folder(folder / "nano", SIZES["nano"]), make_folder(folder / "large", LARGE)
    jobs = make_jobs(folder, nano, large)
    found = run_gang(folder, jobs, num_ranks=2)
    return Started(folder=folder, jobs={job.name: job for job in jobs}, found=found)


@pytest.mark.parametrize("name", EXACT)
def test_a_sharded_start_has_the_bits_of_one_process(started: Started, name: str) -> None:
    job = started.jobs[name]
    same_bits(started.folder / name, initial_model(job.run_file(2)), DTYPES[job.dtype])


def test_a_restored_start_has_the_bits_of_the_checkpoint_and_goes_on(started: Started) -> None:
    job = started.jobs["restored"]
    same_bits(started.folder / job.name, load_model(job.restores), DTYPES[job.dtype])
    steps = [published(started.folder / job.name / each) for each in ("published", "after-0", "after-1")]
    for before, after in pairwise(steps):
        assert any(not torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", MEASURED)
def test_no_process_of_a_start_holds_a_whole_model(started: Started, name: str) -> None:
    """Of two processes. What each keeps is 10 or 12 bytes of half of the weights, and it needs little more.

    Built whole, a model took 4 bytes of all of them beside that.
    """
    whole, figures = 4 * num_parameters(LARGE), started.found[name]
    assert figures["peak"] - figures["kept"] < LITTLE * whole
