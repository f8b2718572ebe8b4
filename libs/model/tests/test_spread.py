"""A training step by several processes that share sequences and experts is the step of one process.

A CPU's matrix routines may sum otherwise for another number of rows. So fp64 is compared at its own rounding,
and bits with products that add one number after another, as a GPU's do.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from forklight_model.checkpoint import save_model
from forklight_model.config import ModelConfig
from forklight_model.model import HybridModel
from libs.model.tests.spread_jobs import activations, computed, gradients, run_jobs
from libs.model.tests.spread_rank import Job

WORLD = 4
DEADLINE_S = 270
PACKS = [[7, 1, 50, 13], [2, 64, 3], [40], [5, 33]]
"""Sequences cross the borders of slices; no pack's tokens divide by four."""
ALONE = Job(name="alone", model="small", dtype="float64", device="cpu", packs=PACKS[:1])
REPLAYED = replace(ALONE, name="replayed", routing="replayed")
TWO = replace(ALONE, name="two", packs=PACKS[:2])
SKEWED = replace(TWO, name="skewed", packs=[[41, 20], [0]], routing="skewed")
FOUR = replace(ALONE, name="four", packs=PACKS)
SINGLE = replace(ALONE, name="single", dtype="float32", packs=[[150, 300, 5]])
ORDERED = replace(
    ALONE, name="ordered", model="even", dtype="float32", packs=[[65, 1, 47, 15]], is_ordered=True
)
ROUNDED = replace(ORDERED, name="rounded", dtype="bfloat16")
RECOMPUTED = {"num_whole_layers": 1}
KEPT = {"keeps_experts": True}


def spread(of: Job, world: int, sequence: int, experts: int, **changes: object) -> Job:
    name = f"{of.name}-{world}-{sequence}-{experts}" + "".join(f"-{value}" for value in changes.values())
    name = "".join(each if each.isalnum() or each == "-" else "_" for each in name)
    changes = {"world": world, "sequence": sequence, "experts": experts} | changes
    return replace(of, name=f"by-{name}", **changes)  # type: ignore[arg-type]


EXACT = {
    ALONE.name: [
        spread(ALONE, 2, 2, 1),
        spread(ALONE, 2, 2, 2, recomputation=RECOMPUTED),
        spread(ALONE, 2, 2, 1, lightning="states", recomputation=KEPT),
        spread(ALONE, 4, 4, 1),  # more processes than key heads
        spread(ALONE, 4, 4, 4, lightning="states"),
    ],
    REPLAYED.name: [spread(REPLAYED, 2, 2, 2, recomputation=KEPT)],
    TWO.name: [
        spread(TWO, 2, 1, 2, recomputation=KEPT),
        spread(TWO, 4, 2, 4),
        spread(TWO, 4, 2, 2, lightning="states"),
    ],
    SKEWED.name: [spread(SKEWED, 2, 1, 2), spread(SKEWED, 2, 1, 2, recomputation=RECOMPUTED)],
    FOUR.name: [spread(FOUR, 4, 1, 4)],
}
BITS = [
    (ORDERED, spread(ORDERED, 2, 2, 1), 1e-5),
    (ORDERED, spread(ORDERED, 2, 2, 2), 1e-5),
    (ORDERED, spread(ORDERED, 4, 4, 4), 1e-5),
    (ROUNDED, spread(ROUNDED, 2, 2, 2), 2e-2),
]
"""With what weights' gradients may differ, of their largest number."""
STATES = spread(SINGLE, 2, 2, 1, lightning="states")
REFERENCES = {job.name: job for job in (ALONE, REPLAYED, TWO, SKEWED, FOUR)}
CASES = [(REFERENCES[name], job) for name, jobs in EXACT.items() for job in jobs]


def model_config(heads: int, width: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=96,
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=3,
        num_attention_heads=heads,
        num_key_value_heads=2,
        head_dim=16,
        rotary_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        attn_type_list=(0, 1, 0),
        max_position_embeddings=512,
        initializer_range=0.2,
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with what four processes computed."""
    folder = tmp_path_factory.mktemp("spread")
    torch.manual_seed(0)
    save_model(HybridModel(model_config(4, 32)), folder / "small")
    # Rows that fill a CPU's vector registers: what is left over it computes with other functions.
    save_model(HybridModel(model_config(8, 64)), folder / "even")
    spread_jobs = [job for jobs in EXACT.values() for job in jobs]
    alone = [*REFERENCES.values(), ORDERED, ROUNDED, SINGLE]
    run_jobs(folder, [*alone, *spread_jobs, *(job for _, job, _ in BITS), STATES], WORLD, DEADLINE_S)
    return folder


def assert_close(got: Tensor, expected: Tensor, what: str) -> None:
    scale = max(1e-3, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-11 * scale, msg=what)


@pytest.mark.parametrize(("of", "job"), CASES, ids=[job.name for _, job in CASES])
def test_a_spread_step_is_the_step_of_one_process(results: Path, of: Job, job: Job) -> None:
    (alone,), parts = computed(results, of), computed(results, job)
    for rank, part in enumerate(parts):
        (pack,) = part["packs"]
        assert pack == rank // job.sequence
        for what in ("logprobs", "scored", "entropy", "balance"):
            assert_close(part["packs"][pack][what], alone["packs"][pack][what], what)
    got, expected = gradients(parts, job), alone["gradients"]
    assert set(got) == set(expected)
    for name, truth in expected.items():
        assert float(truth.abs().max()) > 0, name
        assert_close(got[name], truth, name)


@pytest.mark.parametrize(("of", "job", "tolerance"), BITS, ids=[job.name for _, job, _ in BITS])
def test_a_spread_step_has_the_bits_of_one_process(
    results: Path, of: Job, job: Job, tolerance: float
) -> None:
    (alone,), parts = computed(results, of), computed(results, job)
    for part in parts:
        for what in ("logprobs", "entropy"):
            assert torch.equal(part["packs"][0][what], alone["packs"][0][what]), what
    for what in ("inputs", "input_gradients"):
        if what == "input_gradients" and job.sequence > 2:
            continue  # a key head's gradient is then a sum of rounded ones
        pairs = zip(activations(parts, 0, what), alone["packs"][0][what], strict=True)
        assert all(torch.equal(got, truth) for got, truth in pairs), what
    for name, got in gradients(parts, job).items():
        # Weights' gradients are sums over other numbers of tokens; those of spread experts are not.
        truth = alone["gradients"][name]
        is_same_sum = ".experts." in name and job.experts == job.sequence == 2
        atol = 0.0 if is_same_sum else tolerance * float(truth.abs().max())
        torch.testing.assert_close(got, truth, rtol=0, atol=atol, msg=name)


def test_passed_states_keep_their_tolerance(results: Path) -> None:
    """In fp32: 2e-5 of a log-probability, and of a gradient's largest number."""
    (alone,), parts = computed(results, SINGLE), computed(results, STATES)
    for part in parts:
        got, truth = part["packs"][0]["logprobs"], alone["packs"][0]["logprobs"]
        torch.testing.assert_close(got, truth, rtol=0, atol=2e-5)
    for name, got in gradients(parts, STATES).items():
        truth = alone["gradients"][name]
        torch.testing.assert_close(got, truth, rtol=0, atol=2e-5 * float(truth.abs().max()), msg=name)


def test_bytes_are_counted_as_they_are_sent(results: Path) -> None:
    """A pack of 71 tokens by two processes: 36 of hidden 32, 4 heads and 2 key heads of 16, in fp64."""
    job = EXACT[ALONE.name][0]
    for part in computed(results, job):
        (forward, _), (both, _) = part["packs"][0]["sent_bytes"]
        mixing = 36 // 2 * 8 * (2 * 4 * 4 * 16 + (2 * 4 + 2 * 2) * 16)
        statistics, balance = 36 * 2 * 8, (2 * 4 + 1) * 8
        assert forward == mixing + statistics + balance
        assert both == forward + mixing


def test_a_starved_process_sends_counts_and_gets_no_rows(results: Path) -> None:
    """Its rows of 32 numbers in fp64 go there and back, forward and backward, with weights and theirs."""
    job = EXACT[SKEWED.name][0]
    full, empty = (part["packs"][rank]["sent_bytes"] for rank, part in enumerate(computed(results, job)))
    counts = 3 * 2 * 8
    rows_away, rest = divmod(full[0][1] - counts, 32 * 8)
    assert rest == 0 and 0 < rows_away < 0.2 * 3 * 61 * 2  # nearly all stay with the first two experts
    assert full[1][1] - full[0][1] == rows_away * (32 + 1) * 8
    assert empty[0][1] - counts == rows_away * 32 * 8
