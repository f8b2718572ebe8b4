"""The head's Triton kernels in the interpreter: statistics and gradients against float64, the sampler.

Legend: T tokens, D width, V vocabulary, B sequences.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from forklight_kernels import Backend, SampledTokens, SamplingRequest, sampler, token_stats, using_backend
from forklight_kernels.sampler.randomness import uniform_numbers
from forklight_kernels.sampler.triton_random import place_in, uniform_bits
from forklight_kernels.token_stats import head_logits, logit_stats
from forklight_kernels.token_stats import triton_gpu as triton_head
from forklight_kernels.token_stats.blocks import VOCABULARY_BLOCK, inverse_temperature, levels
from forklight_kernels.token_stats.triton_gradient import HeadPull, choose_slice_width, head_gradients
from forklight_kernels.token_stats.triton_statistics import fold

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the interpreter's tests; tests/gpu has those of a GPU"
)
TOLERANCE = 1e-5


@contextmanager
def poisoned() -> Iterator[None]:
    """Every torch.empty is full of NaN, so that an unwritten hole shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def close(got: Tensor, truth: Tensor) -> None:
    scale = max(1.0, float(truth.abs().max()))
    assert float((got.double() - truth).abs().max()) / scale < TOLERANCE


def statistics_and_gradients(
    backend: Backend, dtype: torch.dtype, shape: tuple[int, int, int], pulls: tuple[bool, bool]
) -> list[Tensor]:
    """Outputs, then the gradients of what `pulls` (log-probabilities, entropies) differentiates."""
    num_tokens, depth, vocab_size = shape
    generator = torch.Generator().manual_seed(3)
    hidden_TD, weight_VD = (
        torch.randn(size, depth, generator=generator).to(dtype).requires_grad_()
        for size in (num_tokens, vocab_size)
    )
    targets_T = torch.randint(vocab_size, (num_tokens,), generator=generator)
    targets_T[0], targets_T[-1] = vocab_size - 1, 0
    pull_T = torch.randn(2, num_tokens, generator=generator)
    with using_backend(backend), poisoned():
        outputs = token_stats(hidden_TD, weight_VD, targets_T, 0.7 if num_tokens % 2 else 1.0)
        chosen = [number for number in (0, 1) if pulls[number]]
        gradients = torch.autograd.grad(
            [outputs[number] for number in chosen],
            [hidden_TD, weight_VD],
            [pull_T[number].to(outputs[number].dtype) for number in chosen],
        )
    return [output.detach() for output in outputs] + list(gradients)


@pytest.mark.parametrize("pulls", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize(
    "shape",
    [(1, 16, 5), (4, 24, 1003), (37, 20, 300), (3, 16, 512)],
    ids=["one token", "short last block", "depth not aligned", "whole blocks"],
)
def test_statistics_and_gradients_match_float64(
    shape: tuple[int, int, int], pulls: tuple[bool, bool]
) -> None:
    got = statistics_and_gradients(Backend.TRITON, torch.float32, shape, pulls)
    truth = statistics_and_gradients(Backend.NAIVE, torch.float64, shape, pulls)
    for one, expected in zip(got, truth, strict=True):
        close(one, expected)


def test_half_precision_operands_keep_fp32_statistics() -> None:
    hidden_TD, weight_VD = torch.randn(9, 32).half(), (torch.randn(700, 32) * 0.3).half()
    targets_T = torch.randint(700, (9,))
    with using_backend(Backend.TRITON):
        got = token_stats(hidden_TD, weight_VD, targets_T)
    with using_backend(Backend.NAIVE):
        truth = token_stats(hidden_TD.double(), weight_VD.double(), targets_T)
    for one, expected in zip(got, truth, strict=True):
        assert one.dtype == torch.float32
        close(one, expected)


@pytest.mark.parametrize("needs", [(True, False), (False, True)])
def test_only_the_gradient_asked_for_is_computed(needs: tuple[bool, bool]) -> None:
    hidden_TD = torch.randn(6, 16, requires_grad=needs[0])
    weight_VD = torch.randn(40, 16, requires_grad=needs[1])
    with using_backend(Backend.TRITON):
        logprobs_T, _ = token_stats(hidden_TD, weight_VD, torch.arange(6))
    logprobs_T.sum().backward()  # an expanded gradient, and none for the entropy
    expected = torch.log_softmax((hidden_TD.detach() @ weight_VD.detach().t()).double(), -1)
    close(logprobs_T.detach(), expected[torch.arange(6), torch.arange(6)])
    assert (hidden_TD.grad is not None, weight_VD.grad is not None) == needs


def test_gradients_do_not_depend_on_the_slices_of_the_vocabulary() -> None:
    hidden_TD, weight_VD, targets_T = torch.randn(7, 16), torch.randn(1003, 16), torch.randint(1003, (7,))
    _, entropy_T, normalizer_T = triton_head.head_statistics(hidden_TD, weight_VD, targets_T, 0.9)
    pull = HeadPull(
        hidden_TD=hidden_TD,
        weight_VD=weight_VD,
        targets_T=targets_T,
        entropy_T=entropy_T,
        normalizer_T=normalizer_T,
        dlogprobs_T=torch.randn(7),
        dentropy_T=torch.randn(7),
        temperature=0.9,
    )
    whole = head_gradients(pull, (True, True), slice_width=1024)
    with poisoned():
        sliced = head_gradients(pull, (True, True), slice_width=256)
    for one, other in zip(whole, sliced, strict=True):
        assert one is not None and other is not None
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_tokens_in_slices_have_the_same_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden_TD, weight_VD, targets_T = torch.randn(20, 16), torch.randn(300, 16), torch.randint(300, (20,))
    whole = triton_head.head_statistics(hidden_TD, weight_VD, targets_T, 1.0)
    monkeypatch.setattr(triton_head, "MAX_STATISTICS_BYTES", 1)
    monkeypatch.setattr(triton_head, "FORWARD_TILE", replace(triton_head.FORWARD_TILE, rows=8))
    sliced = triton_head.head_statistics(hidden_TD, weight_VD, targets_T, 1.0)
    for one, other in zip(sliced, whole, strict=True):
        assert one.shape == (20,)
        torch.testing.assert_close(one, other)


def test_a_target_outside_the_vocabulary_is_nan_and_harms_nothing_else() -> None:
    hidden_TD, weight_VD = torch.randn(4, 16, requires_grad=True), torch.randn(300, 16)
    targets_T = torch.tensor([-1, 3, 300, 2**40])
    with using_backend(Backend.TRITON):
        logprobs_T, entropy_T = token_stats(hidden_TD, weight_VD, targets_T)
        from_logits_T, _ = logit_stats(head_logits(hidden_TD, weight_VD), targets_T)
    for result_T in (logprobs_T, from_logits_T):
        assert result_T.isnan().tolist() == [True, False, True, True]
    assert entropy_T.isfinite().all()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("vocab_size", [5, 256, 1003])
def test_stored_logits_have_the_statistics_of_the_head(vocab_size: int, temperature: float) -> None:
    hidden_TD, weight_VD = torch.randn(5, 32), torch.randn(vocab_size, 32)
    targets_T = torch.randint(vocab_size, (5,))
    with using_backend(Backend.TRITON), poisoned():
        expected = token_stats(hidden_TD, weight_VD, targets_T, temperature)
        got = logit_stats(head_logits(hidden_TD, weight_VD), targets_T, temperature)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=2e-6)


def test_statistics_of_stored_logits_allow_forbidden_tokens_and_any_stride() -> None:
    logits_BV = torch.randn(3, 600)[:, :500]
    logits_BV[:, 7:400] = float("-inf")
    targets_B = torch.tensor([0, 499, 3])
    with using_backend(Backend.TRITON):
        got = logit_stats(logits_BV, targets_B, 0.5)
        same = logit_stats(logits_BV[:1].expand(3, 500), targets_B[:1].expand(3), 0.5)
    for one, expected in zip(got, logit_stats(logits_BV.double(), targets_B, 0.5), strict=True):
        close(one, expected)
    assert same[0].eq(got[0][0]).all()


@triton.jit
def _fold_kernel(X, SUMS, ROWS: tl.constexpr, LANES: tl.constexpr, LEVELS: tl.constexpr):  # noqa: ANN001, ANN202
    row, lane = tl.arange(0, ROWS), tl.arange(0, LANES)
    tl.store(SUMS + row, fold(tl.load(X + row[:, None] * LANES + lane[None, :]), LEVELS))


def test_fold_adds_in_the_order_that_the_contract_names() -> None:
    x = torch.randn(4, VOCABULARY_BLOCK)
    sums = torch.empty(4)
    _fold_kernel[(1,)](x, sums, ROWS=4, LANES=VOCABULARY_BLOCK, LEVELS=levels(VOCABULARY_BLOCK))
    expected = x[:, 0::2] + x[:, 1::2]
    while expected.shape[1] > 1:
        half = expected.shape[1] // 2
        expected = expected[:, :half] + expected[:, half:]
    assert torch.equal(sums, expected[:, 0])


def test_inverse_temperature_is_rounded_once_from_the_fp32_temperature() -> None:
    for temperature in (1.0, 0.7, 0.1, 1.3, 3.0):
        expected = np.float32(1.0 / np.float64(np.float32(temperature)))
        assert inverse_temperature(temperature) == expected
    assert inverse_temperature(1.0) == 1.0


@pytest.mark.parametrize(
    ("num_tokens", "depth", "vocab_size"), [(8192, 6144, 200064), (32768, 2048, 65536), (1, 16, 5)]
)
def test_dz_is_no_larger_than_the_gradient_beside_it(num_tokens: int, depth: int, vocab_size: int) -> None:
    width = choose_slice_width(num_tokens, depth, vocab_size, 2, 132)
    assert width % VOCABULARY_BLOCK == 0 and width < vocab_size + VOCABULARY_BLOCK
    assert 2 * num_tokens * width <= max(4 * num_tokens * depth, 64 << 20)


def drawn(logits_BV: Tensor, asked: SamplingRequest) -> SampledTokens:
    with using_backend(Backend.TRITON), poisoned():
        return sampler(logits_BV, asked)


def request(num_rows: int, temperature: float = 1.0, top_p: float = 1.0) -> SamplingRequest:
    return SamplingRequest(
        temperatures_B=torch.full((num_rows,), temperature),
        top_ps_B=torch.full((num_rows,), top_p),
        seeds_B=torch.arange(num_rows),
        positions_B=torch.arange(num_rows) % 7,
        is_filtered=top_p < 1,
    )


def assert_same(got: SampledTokens, expected: SampledTokens) -> None:
    assert torch.equal(got.ids_B, expected.ids_B)
    torch.testing.assert_close(got.logprobs_B, expected.logprobs_B, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(got.raw_logprobs_B, expected.raw_logprobs_B, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(("vocab_size", "num_rows"), [(1003, 8), (4500, 3)])
def test_sampler_matches_naive_for_mixed_settings(vocab_size: int, num_rows: int) -> None:
    number_B = torch.arange(num_rows)
    asked = SamplingRequest(
        temperatures_B=(torch.rand(num_rows) + 0.2) * (number_B % 4 != 1),
        top_ps_B=torch.where(number_B % 2 == 0, torch.rand(num_rows) * 0.9 + 0.1, 1.0),
        seeds_B=torch.randint(-(2**63), 2**63 - 1, (num_rows,)),
        positions_B=torch.randint(100_000, (num_rows,)),
    )
    logits_BV = torch.randn(num_rows, vocab_size) * 3
    logits_BV[:, 1] = float("-inf")
    with using_backend(Backend.NAIVE):
        expected = sampler(logits_BV, asked)
    assert_same(drawn(logits_BV, asked), expected)


def test_a_row_is_drawn_alike_alone_and_in_any_batch() -> None:
    logits_BV, asked = torch.randn(3, 700) * 2, request(3, temperature=0.8)
    together = drawn(logits_BV, asked)
    for row in range(3):
        place = slice(row, row + 1)
        alone = drawn(
            logits_BV[place],
            replace(
                asked,
                temperatures_B=asked.temperatures_B[place],
                top_ps_B=asked.top_ps_B[place],
                seeds_B=asked.seeds_B[place],
                positions_B=asked.positions_B[place],
            ),
        )
        assert torch.equal(alone.ids_B, together.ids_B[place])
        assert torch.equal(alone.logprobs_B, together.logprobs_B[place])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_probabilities_of_drawn_tokens_have_the_bits_of_the_head(temperature: float) -> None:
    logits_BV = torch.randn(3, 1003) * 2
    sampled = drawn(logits_BV, request(3, temperature))
    with using_backend(Backend.TRITON):
        assert torch.equal(sampled.logprobs_B, logit_stats(logits_BV, sampled.ids_B, temperature)[0])
        assert torch.equal(sampled.raw_logprobs_B, logit_stats(logits_BV, sampled.ids_B, 1.0)[0])


def test_frequencies_follow_the_distribution() -> None:
    draws, logits_V = 60, torch.tensor([1.0, 0.0, 0.5])
    sampled = drawn(logits_V.expand(draws, 3), request(draws, 0.6))
    expected_V = torch.softmax(logits_V / 0.6, dim=-1) * draws
    chi_square = float(((torch.bincount(sampled.ids_B, minlength=3) - expected_V) ** 2 / expected_V).sum())
    assert chi_square < 18.5  # 2 degrees of freedom: exceeded once in 10,000


def test_top_p_keeps_the_fewest_tokens_and_of_ties_the_lowest() -> None:
    logits_BV = torch.log(torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15])).repeat(8, 1)
    logits_BV[4:] = torch.tensor([-0.0, 0.0, 0.0, 0.0, 0.0])
    asked = replace(request(8, top_p=0.75), top_ps_B=torch.tensor([0.75] * 4 + [0.5] * 4))
    sampled = drawn(logits_BV, asked)
    with using_backend(Backend.NAIVE):
        assert_same(sampled, sampler(logits_BV, asked))
    assert set(sampled.ids_B[:4].tolist()) <= {1, 3, 4}
    assert set(sampled.ids_B[4:].tolist()) <= {0, 1, 2}
    torch.testing.assert_close(sampled.logprobs_B[4:].exp(), torch.full((4,), 1 / 3))


@triton.jit
def _random_kernel(SEEDS, POSITIONS, BITS, PLACES, COUNT: tl.constexpr):  # noqa: ANN001, ANN202
    lane = tl.arange(0, COUNT)
    bits = uniform_bits(tl.load(SEEDS + lane), tl.load(POSITIONS + lane))
    tl.store(BITS + lane, bits.to(tl.int64))
    tl.store(PLACES + lane, place_in(bits, tl.full([COUNT], 1000, tl.int64)))


def test_random_bits_are_those_of_the_host() -> None:
    seeds, positions = torch.randint(-(2**63), 2**63 - 1, (64,)), torch.randint(2**40, (64,))
    bits, places = torch.empty(64, dtype=torch.int64), torch.empty(64, dtype=torch.int64)
    _random_kernel[(1,)](seeds, positions, bits, places, COUNT=64)
    expected = uniform_numbers(seeds.numpy(), positions.numpy())
    assert np.array_equal(bits.numpy().astype(np.uint64).astype(np.float64) / 2.0**64, expected)
    assert np.array_equal(places.numpy(), np.floor(expected * 1000).astype(np.int64))


def test_draws_need_no_search_when_the_caller_promises_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    from forklight_kernels.sampler import triton_gpu

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a batch without a filter looked for a nucleus")

    searching: Callable[..., None] = refuse
    monkeypatch.setattr(triton_gpu._Launches, "draw_filtered", searching)
    drawn(torch.randn(2, 50), request(2))
    with pytest.raises(AssertionError, match="looked for a nucleus"):
        drawn(torch.randn(2, 50), replace(request(2), is_filtered=None))


@pytest.mark.parametrize("vocab_size", [40, 41])  # a row of 41 is nothing that a tensor map can describe
def test_logits_go_where_they_are_wanted(vocab_size: int) -> None:
    hidden_TD, weight_VD = torch.randn(5, 16), torch.randn(vocab_size, 16)
    out_TV = torch.full((5, vocab_size), float("nan"))
    with using_backend(Backend.TRITON):
        assert head_logits(hidden_TD, weight_VD, out_TV) is out_TV
    torch.testing.assert_close(out_TV, hidden_TD @ weight_VD.T)
