"""The LM head and the sampler on a GPU: error against float64, shared bits, memory, where draws fall.

Legend: T tokens, D width, V vocabulary, B sequences.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from forklight_kernels import SampledTokens, SamplingRequest, sampler, token_stats
from forklight_kernels.sampler.randomness import uniform_numbers
from forklight_kernels.sampler.triton_random import uniform_bits
from forklight_kernels.token_stats import head_logits, logit_stats, triton_gpu
from forklight_kernels.triton_tiles import Tile

pytestmark = pytest.mark.gpu

FloatError = Callable[[Tensor, Tensor], float]
Poisoned = Callable[[], AbstractContextManager[None]]
TOLERANCE = {torch.bfloat16: 6e-3, torch.float32: 2e-5}
MEMORY_BOUND_BYTES = 0.3 * 2**30
DEEP_TILE = Tile(rows=128, columns=256, depth=128, num_warps=8, num_stages=2)


def operands(
    num_tokens: int, depth: int, vocab_size: int, dtype: torch.dtype = torch.bfloat16
) -> tuple[Tensor, ...]:
    """Hidden states, a weight that gives logits of size 1 to 2, targets that include both ends."""
    hidden_TD = torch.randn(num_tokens, depth, device="cuda").to(dtype)
    weight_VD = (torch.randn(vocab_size, depth, device="cuda") * 1.5 * depth**-0.5).to(dtype)
    targets_T = torch.randint(vocab_size, (num_tokens,), device="cuda")
    targets_T[0], targets_T[-1] = 0, vocab_size - 1
    return hidden_TD, weight_VD, targets_T


def float64_statistics(
    hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    logprobs_TV = torch.log_softmax(hidden_TD.double() @ weight_VD.double().t() / temperature, -1)
    entropy_T = -(logprobs_TV.exp() * logprobs_TV).sum(-1)
    return logprobs_TV.gather(1, targets_T[:, None])[:, 0], entropy_T


def with_gradients(
    op: Callable[..., tuple[Tensor, Tensor]],
    hidden_TD: Tensor,
    weight_VD: Tensor,
    pulls: tuple[Tensor | None, ...],
) -> list[Tensor]:
    leaves = [hidden_TD.detach().clone().requires_grad_(), weight_VD.detach().clone().requires_grad_()]
    outputs = op(*leaves)
    pairs = [(output, pull) for output, pull in zip(outputs, pulls, strict=True) if pull is not None]
    gradients = torch.autograd.grad([o for o, _ in pairs], leaves, [p.to(o.dtype) for o, p in pairs])
    return [*(output.detach() for output in outputs), *gradients]


@pytest.mark.parametrize(
    ("num_tokens", "vocab_size", "temperature", "has_entropy"),
    [
        (1, 1003, 0.7, True),
        (63, 1003, 0.7, True),
        (64, 1024, 0.7, True),
        (65, 32768, 1.0, True),
        (500, 1003, 1.0, False),
        (4097, 32768, 1.0, True),
    ],
)
def test_statistics_and_gradients_match_float64(
    num_tokens: int,
    vocab_size: int,
    temperature: float,
    has_entropy: bool,
    float64_error: FloatError,
    poisoned: Poisoned,
) -> None:
    hidden_TD, weight_VD, targets_T = operands(num_tokens, 256, vocab_size)
    pulls = (
        torch.randn(num_tokens, device="cuda"),
        torch.randn(num_tokens, device="cuda") if has_entropy else None,
    )
    truth = with_gradients(
        lambda h, w: float64_statistics(h, w, targets_T, temperature),
        hidden_TD.double(),
        weight_VD.double(),
        pulls,
    )
    with poisoned():
        got = with_gradients(
            lambda h, w: token_stats(h, w, targets_T, temperature), hidden_TD, weight_VD, pulls
        )
    assert float((got[0] - truth[0]).abs().max()) < 1e-4
    assert float((got[1] - truth[1]).abs().max()) < 1e-4
    for one, expected in zip(got[2:], truth[2:], strict=True):
        assert float64_error(one, expected) < TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("num_tokens", [1, 65, 300])
def test_fp32_operands_are_multiplied_exactly(
    num_tokens: int, float64_error: FloatError, poisoned: Poisoned
) -> None:
    hidden_TD, weight_VD, targets_T = operands(num_tokens, 100, 1003, torch.float32)
    pulls = torch.randn(num_tokens, device="cuda"), torch.randn(num_tokens, device="cuda")
    truth = with_gradients(
        lambda h, w: float64_statistics(h, w, targets_T, 0.7), hidden_TD.double(), weight_VD.double(), pulls
    )
    with poisoned():
        got = with_gradients(lambda h, w: token_stats(h, w, targets_T, 0.7), hidden_TD, weight_VD, pulls)
    for one, expected in zip(got, truth, strict=True):
        assert float64_error(one, expected) < TOLERANCE[torch.float32]


def test_two_runs_give_the_same_bits() -> None:
    hidden_TD, weight_VD, targets_T = operands(1000, 512, 5000)
    pulls = torch.randn(1000, device="cuda"), torch.randn(1000, device="cuda")
    runs = [
        with_gradients(lambda h, w: token_stats(h, w, targets_T), hidden_TD, weight_VD, pulls)
        for _ in range(3)
    ]
    for first, second in pairwise(runs):
        assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("depth", "vocab_size", "temperature"),
    [(512, 1003, 0.7), (520, 32768, 1.0), (512, 65536, 0.7), (64, 200064, 1.0)],
)
def test_generation_has_the_bits_of_training(depth: int, vocab_size: int, temperature: float) -> None:
    """Batches of 1, 7, 64 and 200 rows, every tile of either side: each row's statistics are equal."""
    hidden_TD, weight_VD, targets_T = operands(300, depth, vocab_size)
    expected = token_stats(hidden_TD, weight_VD, targets_T, temperature)
    for tile in (triton_gpu.FEW_ROWS_TILE, DEEP_TILE):
        again = triton_gpu.head_statistics(hidden_TD, weight_VD, targets_T, temperature, tile)
        assert torch.equal(again[0], expected[0]) and torch.equal(again[1], expected[1])
    for num_rows in (1, 7, 64, 200):
        rows = slice(50, 50 + num_rows)
        logits_BV = head_logits(hidden_TD[rows], weight_VD)
        got = logit_stats(logits_BV, targets_T[rows], temperature)
        assert torch.equal(got[0], expected[0][rows]) and torch.equal(got[1], expected[1][rows])
        alone = token_stats(hidden_TD[rows], weight_VD, targets_T[rows], temperature)
        assert torch.equal(alone[0], expected[0][rows]) and torch.equal(alone[1], expected[1][rows])
        for tile in triton_gpu.LOGIT_TILES:
            assert torch.equal(triton_gpu.head_logits(hidden_TD[rows], weight_VD, tile=tile), logits_BV)


def test_generation_has_the_bits_of_training_in_fp32() -> None:
    hidden_TD, weight_VD, targets_T = operands(100, 96, 1003, torch.float32)
    expected = token_stats(hidden_TD, weight_VD, targets_T, 0.7)
    for num_rows in (1, 7, 64):
        got = logit_stats(head_logits(hidden_TD[:num_rows], weight_VD), targets_T[:num_rows], 0.7)
        assert torch.equal(got[0], expected[0][:num_rows]) and torch.equal(got[1], expected[1][:num_rows])


def peak_bytes(call: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def test_published_size_is_exact_enough_and_small_enough() -> None:
    """8192 x 6144 x 200,064: 0.3 GiB beside the gradients, 1e-4 of log-probability and entropy."""
    hidden_TD = torch.randn(8192, 6144, device="cuda", dtype=torch.bfloat16)
    weight_VD = torch.empty(200064, 6144, device="cuda", dtype=torch.bfloat16).normal_(std=0.02)
    targets_T = torch.randint(200064, (8192,), device="cuda")
    some_TD = hidden_TD[:128]
    logits_TV = torch.cat([some_TD.double() @ part.double().t() for part in weight_VD.split(25008)], dim=1)
    logprobs_TV = torch.log_softmax(logits_TV, -1)
    del logits_TV
    with torch.no_grad():
        logprobs_T, entropy_T = token_stats(hidden_TD, weight_VD, targets_T)
    truth_T = logprobs_TV.gather(1, targets_T[:128, None])[:, 0]
    assert float((logprobs_T[:128] - truth_T).abs().max()) < 1e-4
    assert float((entropy_T[:128] + (logprobs_TV.exp() * logprobs_TV).sum(-1)).abs().max()) < 1e-4
    del logprobs_TV, truth_T
    assert peak_bytes(lambda: token_stats(hidden_TD, weight_VD, targets_T)) < MEMORY_BOUND_BYTES

    hidden_TD.requires_grad_()
    weight_VD.requires_grad_()

    def step() -> tuple[Tensor, ...]:
        outputs = token_stats(hidden_TD, weight_VD, targets_T)
        return torch.autograd.grad(outputs[0].sum() + outputs[1].sum(), [hidden_TD, weight_VD])

    step()  # allocates the matrix library's workspace
    assert peak_bytes(step) - hidden_TD.nbytes - weight_VD.nbytes < MEMORY_BOUND_BYTES


def test_a_target_outside_the_vocabulary_is_nan_alone() -> None:
    hidden_TD, weight_VD, targets_T = operands(200, 64, 1003)
    expected_T = token_stats(hidden_TD, weight_VD, targets_T)[0]
    targets_T[3], targets_T[4], targets_T[5] = -1, 1003, 2**40
    got_T = token_stats(hidden_TD, weight_VD, targets_T)[0]
    assert got_T[3:6].isnan().all()
    assert torch.equal(got_T[6:], expected_T[6:]) and torch.equal(got_T[:3], expected_T[:3])


def request(
    num_rows: int, temperature: float = 1.0, top_p: float = 1.0, is_filtered: bool | None = None
) -> SamplingRequest:
    return SamplingRequest(
        temperatures_B=torch.full((num_rows,), temperature, device="cuda"),
        top_ps_B=torch.full((num_rows,), top_p, device="cuda"),
        seeds_B=torch.arange(num_rows, device="cuda"),
        positions_B=torch.arange(num_rows, device="cuda") % 7,
        is_filtered=is_filtered,
    )


def mixed_request(num_rows: int) -> SamplingRequest:
    number_B = torch.arange(num_rows, device="cuda")
    return SamplingRequest(
        temperatures_B=(torch.rand(num_rows, device="cuda") + 0.2) * (number_B % 5 > 0),
        top_ps_B=torch.where(number_B % 3 > 0, torch.rand(num_rows, device="cuda") * 0.9 + 0.1, 1.0),
        seeds_B=torch.randint(-(2**62), 2**62, (num_rows,), device="cuda"),
        positions_B=torch.randint(100_000, (num_rows,), device="cuda"),
    )


def rows_of(asked: SamplingRequest, rows: Tensor) -> SamplingRequest:
    columns = {field.name: getattr(asked, field.name) for field in fields(asked)}
    return replace(asked, **{name: of[rows] for name, of in columns.items() if isinstance(of, Tensor)})


def assert_equal(got: SampledTokens, expected: SampledTokens, rows: Tensor) -> None:
    assert torch.equal(got.ids_B, expected.ids_B[rows])
    assert torch.equal(got.logprobs_B, expected.logprobs_B[rows])
    assert torch.equal(got.raw_logprobs_B, expected.raw_logprobs_B[rows])


def float64_nucleus(logits_BV: Tensor, asked: SamplingRequest) -> Tensor:
    """Probabilities sampled from; a greedy row has temperature 1 and no filter here."""
    is_greedy_B1 = (asked.temperatures_B == 0)[:, None]
    temperatures_B1 = torch.where(is_greedy_B1, 1.0, asked.temperatures_B[:, None].double())
    p_BV = torch.softmax(logits_BV.double() / temperatures_B1, -1)
    sorted_BV, order_BV = torch.sort(p_BV, dim=-1, descending=True, stable=True)
    top_ps_B1 = asked.top_ps_B[:, None].double()
    is_inside_BV = (sorted_BV.cumsum(-1) - sorted_BV < top_ps_B1) | (top_ps_B1 >= 1) | is_greedy_B1
    kept_BV = torch.zeros_like(p_BV).scatter_(1, order_BV, sorted_BV * is_inside_BV)
    return kept_BV / kept_BV.sum(-1, keepdim=True)


@pytest.mark.parametrize(("vocab_size", "spread"), [(1003, 3.0), (32768, 3.0), (200064, 1.0), (200064, 4.0)])
def test_draws_are_where_the_uniform_numbers_point(
    vocab_size: int, spread: float, poisoned: Poisoned
) -> None:
    logits_BV = torch.randn(48, vocab_size, device="cuda") * spread
    logits_BV[:, 5:50] = float("-inf")
    asked = mixed_request(48)
    with poisoned():
        sampled = sampler(logits_BV, asked)
    ids_B1, is_greedy_B = sampled.ids_B[:, None], asked.temperatures_B == 0
    assert torch.equal(sampled.ids_B[is_greedy_B], logits_BV.argmax(-1)[is_greedy_B])
    p_BV = float64_nucleus(logits_BV, asked)
    uniforms = uniform_numbers(asked.seeds_B.cpu().numpy(), asked.positions_B.cpu().numpy())
    u_B = torch.from_numpy(uniforms).cuda()
    p_B, up_to_B = p_BV.gather(1, ids_B1)[:, 0], p_BV.cumsum(-1).gather(1, ids_B1)[:, 0]
    is_hit_B = (up_to_B - p_B < u_B + 2e-5) & (u_B < up_to_B + 2e-5) & (p_B > 0)
    assert bool((is_hit_B | is_greedy_B).all())
    expected_B = torch.where(is_greedy_B, 0.0, p_B.log()).float()
    torch.testing.assert_close(sampled.logprobs_B, expected_B, rtol=1e-5, atol=2e-5)
    raw_B = torch.log_softmax(logits_BV.double(), -1).gather(1, ids_B1)[:, 0].float()
    torch.testing.assert_close(sampled.raw_logprobs_B, raw_B, rtol=1e-5, atol=2e-5)


def chi_square(sampled: SampledTokens, p_V: Tensor) -> float:
    """In standard deviations above what is expected."""
    expected_V = p_V * len(sampled.ids_B)
    counts_V = torch.bincount(sampled.ids_B, minlength=len(p_V)).double()
    assert not counts_V[p_V == 0].any()
    is_common_V = expected_V > 5
    freedom = int(is_common_V.sum()) - 1
    value = float(((counts_V - expected_V) ** 2 / expected_V)[is_common_V].sum())
    return (value - freedom) / (2 * freedom) ** 0.5


@pytest.mark.parametrize(("num_rows", "temperature", "top_p"), [(300_000, 0.8, 1.0), (20_000, 1.0, 0.8)])
def test_frequencies_follow_the_distribution(num_rows: int, temperature: float, top_p: float) -> None:
    logits_BV = torch.randn(1003, device="cuda").expand(num_rows, 1003)
    asked = request(num_rows, temperature, top_p)
    p_V = float64_nucleus(logits_BV[:1], rows_of(asked, torch.tensor([0], device="cuda")))[0]
    assert chi_square(sampler(logits_BV, asked), p_V) < 5


def test_a_row_is_drawn_alike_in_any_batch() -> None:
    logits_BV, asked = torch.randn(64, 32768, device="cuda") * 2, mixed_request(64)
    together = sampler(logits_BV, asked)
    for num_rows in (1, 7, 33):
        rows = torch.randperm(64, device="cuda")[:num_rows]
        assert_equal(sampler(logits_BV[rows], rows_of(asked, rows)), together, rows)
    padded_BV = torch.randn(64, 32768 + 3, device="cuda")  # rows that start nowhere aligned
    padded_BV[:, :32768] = logits_BV
    assert_equal(sampler(padded_BV[:, :32768], asked), together, torch.arange(64, device="cuda"))


@pytest.mark.parametrize(("vocab_size", "temperature"), [(1003, 1.0), (65536, 0.7)])
def test_sampled_probabilities_have_the_bits_of_training(vocab_size: int, temperature: float) -> None:
    hidden_TD, weight_VD, _ = operands(200, 256, vocab_size)
    for num_rows in (1, 64, 200):
        asked = request(num_rows, temperature, is_filtered=False)
        sampled = sampler(head_logits(hidden_TD[:num_rows], weight_VD), asked)
        targets_T = torch.zeros(200, device="cuda", dtype=torch.int64)
        targets_T[:num_rows] = sampled.ids_B
        trained = token_stats(hidden_TD, weight_VD, targets_T, temperature)[0][:num_rows]
        raw = token_stats(hidden_TD, weight_VD, targets_T)[0][:num_rows]
        assert torch.equal(sampled.logprobs_B, trained) and torch.equal(sampled.raw_logprobs_B, raw)


@triton.jit
def _bits_kernel(SEEDS, POSITIONS, BITS, COUNT: tl.constexpr):  # noqa: ANN001, ANN202
    lane = tl.arange(0, COUNT)
    tl.store(BITS + lane, uniform_bits(tl.load(SEEDS + lane), tl.load(POSITIONS + lane)).to(tl.int64))


def test_random_bits_are_those_of_the_host() -> None:
    seeds = torch.randint(-(2**63), 2**63 - 1, (4096,)).cuda()
    positions = torch.randint(2**40, (4096,), device="cuda")
    bits = torch.empty(4096, dtype=torch.int64, device="cuda")
    _bits_kernel[(1,)](seeds, positions, bits, COUNT=4096)
    expected = uniform_numbers(seeds.cpu().numpy(), positions.cpu().numpy())
    assert np.array_equal(bits.cpu().numpy().astype(np.uint64).astype(np.float64) / 2.0**64, expected)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_nothing_waits_for_the_host_and_a_graph_draws_alike() -> None:
    hidden_TD, weight_VD, targets_T = operands(200, 256, 1003)
    logits_BV, asked = head_logits(hidden_TD[:16], weight_VD), mixed_request(16)
    weight_VD.requires_grad_()
    sampler(logits_BV, asked)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        sampler(logits_BV, asked)
        token_stats(hidden_TD, weight_VD, targets_T)[0].sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = sampler(head_logits(hidden_TD[:16], weight_VD), asked)
    for _ in range(3):
        asked.positions_B.add_(1)
        graph.replay()
        assert_equal(recorded, sampler(logits_BV, asked), torch.arange(16, device="cuda"))
