"""A training step by two GPUs that share sequences and experts, through NCCL: in bf16 the scores and what
every block takes in have the bits of one GPU; gradients are sums in another order.

Alone: python -m pytest -m gpu libs/model/tests/gpu/test_gpu_spread.py
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from forklight_model.checkpoint import save_model
from forklight_model.model import HybridModel
from forklight_model.sizes import SIZES
from libs.model.tests.spread_jobs import activations, computed, gradients, run_jobs
from libs.model.tests.spread_rank import Job

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs"),
]

DEADLINE_S = 420
PACKS = [[1, 700, 64, 1500, 333, 3], [900, 41, 5]]
ALONE = Job(name="alone", model="mini", dtype="bfloat16", device="cuda", packs=PACKS[:1])
TWO = replace(ALONE, name="two", packs=PACKS)
REPLAYED = replace(ALONE, name="replayed", routing="replayed")
SKEWED = replace(TWO, name="skewed", packs=[[900, 41], [0]], routing="skewed")
SHARED = {"world": 2, "sequence": 2}
SPREAD = {"world": 2, "experts": 2}
RECOMPUTED = {"keeps_experts": True, "num_whole_layers": 1}
PAIRS = [
    (ALONE, replace(ALONE, name="sequence", **SHARED)),
    (ALONE, replace(ALONE, name="both", **SHARED | SPREAD)),
    (ALONE, replace(ALONE, name="recomputed", **SHARED | SPREAD, recomputation=RECOMPUTED)),
    (REPLAYED, replace(REPLAYED, name="replayed-both", **SHARED | SPREAD, recomputation={})),
    (TWO, replace(TWO, name="experts", **SPREAD)),
    (SKEWED, replace(SKEWED, name="starved", **SPREAD, recomputation={})),
]
STATES = replace(ALONE, name="states", **SHARED, lightning="states")
LARGEST_GRADIENT_ERROR = 0.03
"""Of the norm: gradients are bf16, their sums are over other numbers of tokens."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what two GPUs computed: some of `mini`'s layers."""
    folder = tmp_path_factory.mktemp("spread")
    torch.manual_seed(0)
    config = replace(
        SIZES["mini"],
        num_hidden_layers=4,
        attn_type_list=(0, 0, 1, 0),
        num_local_experts=8,
        vocab_size=8192,
    )
    save_model(HybridModel(config).to(torch.bfloat16), folder / "mini")
    alone = [ALONE, TWO, REPLAYED, SKEWED]
    run_jobs(folder, [*alone, *(job for _, job in PAIRS), STATES], world=2, deadline_s=DEADLINE_S)
    return folder


@pytest.mark.parametrize(("of", "job"), PAIRS, ids=[job.name for _, job in PAIRS])
@pytest.mark.timeout(DEADLINE_S + 60)
def test_two_gpus_give_one_gpus_bits(results: Path, of: Job, job: Job) -> None:
    (alone,), parts = computed(results, of), computed(results, job)
    for part in parts:
        ((pack, got),) = part["packs"].items()
        truth = alone["packs"][pack]
        for what in ("logprobs", "scored", "entropy"):
            assert torch.equal(got[what], truth[what]), what
        torch.testing.assert_close(got["balance"], truth["balance"], rtol=1e-5, atol=1e-6)
        inputs = activations(parts, pack, "inputs") if job.recomputation is None else []
        assert all(torch.equal(*pair) for pair in zip(inputs, truth["inputs"], strict=bool(inputs)))


@pytest.mark.parametrize(("of", "job"), PAIRS, ids=[job.name for _, job in PAIRS])
def test_two_gpus_gradients_add_up_to_one_gpus(results: Path, of: Job, job: Job) -> None:
    (alone,), got = computed(results, of), gradients(computed(results, job), job)
    for name, truth in alone["gradients"].items():
        error = float((got[name].float() - truth.float()).norm() / truth.float().norm())
        assert error < LARGEST_GRADIENT_ERROR, f"{name} is off by {error:.3f}"


def test_passed_states_keep_their_tolerance(results: Path) -> None:
    (alone,), parts = computed(results, ALONE), computed(results, STATES)
    truth = alone["packs"][0]["logprobs"]
    for part in parts:
        difference = (part["packs"][0]["logprobs"] - truth).abs()
        assert float(difference.mean()) < 0.01 and float(difference.max()) < 0.5
    got = gradients(parts, STATES)
    for name, expected in alone["gradients"].items():
        error = float((got[name].float() - expected.float()).norm() / expected.float().norm())
        assert error < 5 * LARGEST_GRADIENT_ERROR, f"{name} is off by {error:.3f}"
