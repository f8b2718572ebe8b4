"""Filters of the sampler: top_k, then min_p, then top_p of what they leave, on every backend that runs here.

Legend: B sequences, V vocabulary, N draws.
"""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from forklight_kernels import Backend, SampledTokens, SamplingRequest, sampler, using_backend
from forklight_kernels.sampler.randomness import uniform_numbers

BACKENDS = [Backend.NAIVE, Backend.TORCH, *([] if torch.cuda.is_available() else [Backend.TRITON])]
FAST_BACKENDS = BACKENDS[1:]
NEVER = float("-inf")
BASE = tuple(torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15]).log().tolist())
HALF = torch.tensor(0.5).double().log().float()
JUST_HALF = float(
    HALF if HALF.double() >= torch.tensor(0.5).double().log() else torch.nextafter(HALF, HALF + 1)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A row whose kept tokens are known by hand."""

    logits: tuple[float, ...] = BASE
    temperature: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    top_p: float = 1.0
    kept: tuple[int, ...]


CASES = {
    "no filter": Case(kept=(0, 1, 2, 3, 4)),
    "top_k of two": Case(top_k=2, kept=(1, 3)),
    "top_k of one": Case(top_k=1, kept=(1,)),
    "top_k, ties at the border go to the lowest id": Case(logits=(1, 0, 0, 0, 2), top_k=3, kept=(0, 1, 4)),
    "top_k, nothing but ties": Case(logits=(0,) * 8, top_k=5, kept=(0, 1, 2, 3, 4)),
    "top_k of the whole vocabulary": Case(logits=(0,) * 8, top_k=8, kept=tuple(range(8))),
    "top_k beyond the vocabulary": Case(logits=(0,) * 8, top_k=9, kept=tuple(range(8))),
    "top_k beyond what is possible": Case(logits=(NEVER, 0, NEVER, 0), top_k=3, kept=(1, 3)),
    "top_k among zeros of either sign": Case(logits=(-0.0, 0.0, -0.0, 0.0), top_k=2, kept=(0, 1)),
    "min_p": Case(min_p=0.5, kept=(1, 3)),
    "min_p after the temperature": Case(temperature=0.5, min_p=0.6, kept=(1,)),
    "min_p just below": Case(
        temperature=2.0, min_p=0.51, kept=(0, 1, 3, 4), logits=(-1.3, 0, -1.4, -0.2, -1.3)
    ),
    "min_p of one keeps the largest and its equals": Case(logits=(2, 1, 2), min_p=1.0, kept=(0, 2)),
    "min_p, the least logit allowed": Case(logits=(0, JUST_HALF), min_p=0.5, kept=(0, 1)),
    "min_p, the next smaller logit": Case(logits=(0, JUST_HALF - 1e-7), min_p=0.5, kept=(0,)),
    "min_p so small that it takes nothing": Case(min_p=1e-38, kept=(0, 1, 2, 3, 4)),
    "top_p": Case(top_p=0.75, kept=(1, 3, 4)),
    "tiny top_p keeps one": Case(top_p=1e-9, kept=(1,)),
    "top_p, of ties the lowest ids": Case(logits=(0,) * 8, top_p=0.5, kept=(0, 1, 2, 3)),
    "top_p of what top_k leaves": Case(top_k=3, top_p=0.8, kept=(1, 3)),
    "top_p of the ties that top_k leaves": Case(logits=(0,) * 8, top_k=4, top_p=0.5, kept=(0, 1)),
    "top_p ends among the ties of top_k": Case(logits=(0, 3, 0, 0, 0), top_k=4, top_p=0.94, kept=(0, 1, 2)),
    "top_p of what min_p leaves": Case(min_p=0.2, top_p=0.89, kept=(1, 3, 4)),
    "top_k keeps fewer than min_p": Case(top_k=2, min_p=0.2, kept=(1, 3)),
    "min_p keeps fewer than top_k": Case(top_k=4, min_p=0.5, kept=(1, 3)),
    "top_k among the ties at min_p's border": Case(logits=(0, 1, 0, 0), top_k=3, min_p=0.3, kept=(0, 1, 2)),
    "all three": Case(top_k=4, min_p=0.3, top_p=0.8, kept=(1, 3)),
    "impossible tokens and top_p": Case(logits=(NEVER, 1, NEVER, 1, 0), top_p=0.5, kept=(1, 3)),
    "large logits": Case(logits=(300, 299, 200, 301), top_k=3, min_p=0.2, kept=(0, 3)),
    "far below zero": Case(logits=(-900, -899, -1000, -901), top_k=2, top_p=0.8, kept=(0, 1)),
}


def batch(cases: list[Case], num_draws: int) -> tuple[Tensor, SamplingRequest]:
    """Every case in `num_draws` rows with seeds of their own; the ids beyond a case's own are impossible."""
    cases = [case for case in cases for _ in range(num_draws)]
    logits_BV = torch.full((len(cases), 8), NEVER)
    for row, case in enumerate(cases):
        logits_BV[row, : len(case.logits)] = torch.tensor(case.logits)
    return logits_BV, SamplingRequest(
        temperatures_B=torch.tensor([case.temperature for case in cases]),
        top_ks_B=torch.tensor([case.top_k for case in cases], dtype=torch.int32),
        min_ps_B=torch.tensor([case.min_p for case in cases]),
        top_ps_B=torch.tensor([case.top_p for case in cases]),
        seeds_B=torch.arange(len(cases)),
        positions_B=torch.arange(len(cases)) % 5,
    )


def drawn(backend: Backend, logits_BV: Tensor, asked: SamplingRequest) -> SampledTokens:
    with using_backend(backend):
        return sampler(logits_BV, asked)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_with_every_filter_in_one_batch_keep_what_was_worked_out_by_hand(backend: Backend) -> None:
    """The log-probability of a single draw already shows the mass of all that was kept."""
    num_draws = 1 if backend is Backend.TRITON else 100
    logits_BV, asked = batch(list(CASES.values()), num_draws)
    sampled = drawn(backend, logits_BV, asked)
    for number, (name, case) in enumerate(CASES.items()):
        rows = slice(number * num_draws, (number + 1) * num_draws)
        ids = set(sampled.ids_B[rows].tolist())
        assert ids <= set(case.kept), name
        assert num_draws == 1 or ids == set(case.kept), name
        p_V = torch.softmax(torch.tensor(case.logits).double() / case.temperature, -1)
        expected_N = (p_V[sampled.ids_B[rows]] / p_V[list(case.kept)].sum()).log().float()
        torch.testing.assert_close(sampled.logprobs_B[rows], expected_N, rtol=0, atol=1e-5, msg=name)
        raw_N = torch.log_softmax(torch.tensor(case.logits).double(), -1)[sampled.ids_B[rows]].float()
        torch.testing.assert_close(sampled.raw_logprobs_B[rows], raw_N, rtol=1e-6, atol=1e-5, msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_zero_temperature_is_greedy_whatever_the_filters(backend: Backend) -> None:
    case = Case(logits=(0, 5, 5, 1), temperature=0.0, top_k=3, min_p=0.1, top_p=0.2, kept=(1,))
    sampled = drawn(backend, *batch([case], 2))
    assert sampled.ids_B.eq(1).all() and sampled.logprobs_B.eq(0).all()


def random_rows(num_rows: int, vocab_size: int) -> tuple[Tensor, SamplingRequest]:
    """Flat, even and peaked rows, ties, impossible tokens; greedy, filters of every kind and none."""

    def some(share: float) -> Tensor:
        return torch.rand(num_rows) < share

    spreads = torch.tensor([0.0, 0.02, 1.0, 3.0, 6.0])[torch.randint(5, (num_rows, 1))]
    logits_BV = torch.randn(num_rows, vocab_size) * spreads
    logits_BV = torch.where(some(0.3)[:, None], (logits_BV * 2).round() / 2, logits_BV)
    logits_BV[:, torch.randperm(vocab_size)[: vocab_size // 10]] = NEVER
    top_ks_B = torch.exp(torch.rand(num_rows) * torch.log(torch.tensor(2.0 * vocab_size))).int()
    min_ps_B = torch.where(some(0.2), 1.0, torch.exp(-torch.rand(num_rows) * 20))
    top_ps_B = torch.where(some(0.2), 1e-6, torch.rand(num_rows))
    return logits_BV, SamplingRequest(
        temperatures_B=torch.where(some(0.1), 0.0, torch.rand(num_rows) * 1.5 + 0.2),
        top_ks_B=torch.where(some(0.4), 0, top_ks_B).int(),
        min_ps_B=torch.where(some(0.5), 0.0, min_ps_B),
        top_ps_B=torch.where(some(0.3), 1.0, top_ps_B),
        seeds_B=torch.randint(-(2**63), 2**63 - 1, (num_rows,)),
        positions_B=torch.randint(100_000, (num_rows,)),
    )


def distance_to_border(logits_V: Tensor, asked: SamplingRequest, row: int, kept_logprob: float) -> float:
    """How far a row's uniform number is from the nearest border of two tokens, as a share of the kept mass.

    The kept tokens are the likeliest, as many as give this log-probability to the likeliest of them.
    """
    p_V = torch.softmax(logits_V.double() / asked.temperatures_B[row].double(), -1)
    order_V = torch.sort(p_V, descending=True, stable=True).indices
    mass = float(p_V[order_V[0]]) / torch.tensor(kept_logprob).double().exp()
    count = int((p_V[order_V].cumsum(0) < mass * (1 - 1e-7)).sum()) + 1
    kept_V = torch.zeros_like(p_V)
    kept_V[order_V[:count]] = p_V[order_V[:count]]
    uniform = uniform_numbers(
        asked.seeds_B[row : row + 1].numpy(), asked.positions_B[row : row + 1].numpy()
    ).item()
    return float((kept_V.cumsum(0) / kept_V.sum() - uniform).abs().min())


def assert_draws_match_naive(backend: Backend, logits_BV: Tensor, asked: SamplingRequest) -> int:
    """Same tokens and log-probabilities; where a token differs, its row's number must lie on a border."""
    got, expected = drawn(backend, logits_BV, asked), drawn(Backend.NAIVE, logits_BV, asked)
    is_same_B = got.ids_B == expected.ids_B
    for name in ("logprobs_B", "raw_logprobs_B"):
        one_B, other_B = getattr(got, name)[is_same_B], getattr(expected, name)[is_same_B]
        torch.testing.assert_close(one_B, other_B, rtol=1e-6, atol=1e-5)
    for row in (~is_same_B).nonzero()[:, 0].tolist():
        p_V = torch.softmax(logits_BV[row].double() / asked.temperatures_B[row].double(), -1)
        largest = float(expected.logprobs_B[row] + (p_V.max() / p_V[expected.ids_B[row]]).log())
        assert distance_to_border(logits_BV[row], asked, row, largest) < 1e-6, f"row {row}"
    return int((~is_same_B).sum())


def test_torch_draws_what_naive_draws() -> None:
    num_different = 0
    for seed, vocab_size in enumerate((1, 5, 257, 1003)):
        torch.manual_seed(seed)
        num_different += assert_draws_match_naive(Backend.TORCH, *random_rows(200, vocab_size))
    assert num_different <= 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter's test; tests/gpu has that of a GPU")
@pytest.mark.parametrize(("num_rows", "vocab_size"), [(24, 1003), (8, 257), (8, 5), (3, 4500)])
def test_triton_draws_what_naive_draws(num_rows: int, vocab_size: int) -> None:
    assert assert_draws_match_naive(Backend.TRITON, *random_rows(num_rows, vocab_size)) == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter's test; tests/gpu has that of a GPU")
def test_triton_draws_alike_in_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of one block and lists longer than a tile: the same bits, whatever else is in the batch."""
    from forklight_kernels.sampler import triton_gpu

    logits_BV, asked = random_rows(8, 1003)
    expected = drawn(Backend.TRITON, logits_BV, asked)
    monkeypatch.setattr(triton_gpu, "BLOCKS_A_PROGRAM", 1)
    monkeypatch.setattr(triton_gpu, "CHUNK", 256)
    monkeypatch.setattr(triton_gpu, "CANDIDATES_AT_ONCE", 64)
    monkeypatch.setattr(triton_gpu, "CHUNKS_AT_ONCE", 2)
    backwards = SamplingRequest(
        temperatures_B=asked.temperatures_B.flip(0),
        top_ks_B=None if asked.top_ks_B is None else asked.top_ks_B.flip(0),
        min_ps_B=None if asked.min_ps_B is None else asked.min_ps_B.flip(0),
        top_ps_B=asked.top_ps_B.flip(0),
        seeds_B=asked.seeds_B.flip(0),
        positions_B=asked.positions_B.flip(0),
    )
    got = drawn(Backend.TRITON, logits_BV.flip(0), backwards)
    assert torch.equal(got.ids_B.flip(0), expected.ids_B)
    assert torch.equal(got.logprobs_B.flip(0), expected.logprobs_B)
    assert torch.equal(got.raw_logprobs_B.flip(0), expected.raw_logprobs_B)


@pytest.mark.parametrize("backend", FAST_BACKENDS)
def test_equals_beyond_the_first_chunk_are_counted_by_id(backend: Backend) -> None:
    """4500 equal logits: a chunk of 4096 and one of 404. 4300 tokens are left, 0.9 of them is 3870."""
    num_rows = 4 if backend is Backend.TRITON else 50
    asked = SamplingRequest(
        temperatures_B=torch.full((num_rows,), 0.7),
        top_ks_B=torch.full((num_rows,), 4300, dtype=torch.int32),
        top_ps_B=torch.where(torch.arange(num_rows) % 2 == 0, 1.0, 0.9),
        seeds_B=torch.arange(num_rows),
        positions_B=torch.arange(num_rows),
    )
    sampled = drawn(backend, torch.full((num_rows, 4500), -3.0), asked)
    kept_B = torch.where(torch.arange(num_rows) % 2 == 0, 4300, 3870)
    assert (sampled.ids_B < kept_B).all()
    torch.testing.assert_close(sampled.logprobs_B, -kept_B.float().log(), rtol=0, atol=1e-5)


def test_frequencies_follow_the_filtered_distribution() -> None:
    draws, case = 40_000, Case(temperature=0.8, top_k=4, min_p=0.1, top_p=0.97, kept=(0, 1, 3, 4))
    logits_BV, asked = batch([case], draws)
    p_V = torch.softmax(torch.tensor(case.logits) / case.temperature, -1)
    expected_V = torch.zeros(8)
    expected_V[list(case.kept)] = p_V[list(case.kept)] / p_V[list(case.kept)].sum() * draws
    counts_V = torch.bincount(drawn(Backend.TORCH, logits_BV, asked).ids_B, minlength=8)
    assert counts_V[expected_V == 0].sum() == 0
    is_kept_V = expected_V > 0
    chi_square = float(((counts_V - expected_V) ** 2 / expected_V)[is_kept_V].sum())
    assert chi_square < 21.1  # 3 degrees of freedom: exceeded once in 10,000


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_request_without_the_columns_is_one_whose_columns_are_zero(backend: Backend) -> None:
    logits_BV, asked = random_rows(6, 300)
    zeros = replace(asked, top_ks_B=torch.zeros(6, dtype=torch.int32), min_ps_B=torch.zeros(6))
    got = drawn(backend, logits_BV, replace(asked, top_ks_B=None, min_ps_B=None))
    expected = drawn(backend, logits_BV, zeros)
    assert torch.equal(got.ids_B, expected.ids_B) and torch.equal(got.logprobs_B, expected.logprobs_B)


@pytest.mark.parametrize("backend", FAST_BACKENDS)
def test_rows_without_a_filter_have_the_bits_of_a_batch_without_one(backend: Backend) -> None:
    logits_BV, asked = random_rows(8, 700)
    is_plain_B = torch.arange(8) % 2 == 0
    asked = replace(
        asked,
        top_ks_B=torch.where(is_plain_B, 0, 5).int(),
        min_ps_B=torch.where(is_plain_B, 0.0, 0.01),
        top_ps_B=torch.where(is_plain_B, 1.0, 0.5),
    )
    mixed = drawn(backend, logits_BV, asked)
    plain = drawn(backend, logits_BV, replace(asked, is_filtered=False))
    assert torch.equal(mixed.ids_B[is_plain_B], plain.ids_B[is_plain_B])
    assert torch.equal(mixed.logprobs_B[is_plain_B], plain.logprobs_B[is_plain_B])
    assert not torch.equal(mixed.logprobs_B[~is_plain_B], plain.logprobs_B[~is_plain_B])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_ks_B": torch.zeros(2, dtype=torch.int64)}, "top_ks is int64; allowed are int32"),
        ({"min_ps_B": torch.zeros(2, dtype=torch.float64)}, "min_ps is float64; allowed are float32"),
        ({"top_ks_B": torch.zeros(3, dtype=torch.int32)}, "top_ks has shape"),
        ({"min_ps_B": torch.zeros(2, device="meta")}, "min_ps are on meta"),
    ],
)
def test_filters_that_cannot_be_are_refused(changes: dict[str, Tensor], message: str) -> None:
    logits_BV, asked = batch([Case(kept=())], 2)
    with pytest.raises(ValueError, match=message):
        sampler(logits_BV, replace(asked, **changes))
