"""The sampler's filters and the end rules on a GPU: against float64, in any batch, in a graph.

Legend: B sequences, V vocabulary, K stop ids.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from forklight_kernels import (
    Backend,
    EndColumns,
    SampledTokens,
    SamplingRequest,
    apply_end_rules,
    sampler,
    using_backend,
)
from forklight_kernels.sampler import triton_gpu
from forklight_kernels.sampler.randomness import uniform_numbers

pytestmark = pytest.mark.gpu

Poisoned = Callable[[], AbstractContextManager[None]]
BORDER = 1e-5
"""Of the kept mass: a uniform number so near to the border between two tokens may fall on either side."""


def random_rows(num_rows: int, vocab_size: int) -> tuple[Tensor, SamplingRequest]:
    """Flat, even and peaked rows, ties, impossible tokens; greedy, filters of every kind and none."""

    def some(share: float) -> Tensor:
        return torch.rand(num_rows, device="cuda") < share

    def shares() -> Tensor:
        return torch.rand(num_rows, device="cuda")

    spreads = torch.tensor([0.0, 0.02, 1.6, 3.0, 4.0], device="cuda")
    chosen_B1 = spreads[torch.randint(5, (num_rows, 1), device="cuda")]
    logits_BV = torch.randn(num_rows, vocab_size, device="cuda") * chosen_B1
    logits_BV = torch.where(some(0.2)[:, None], (logits_BV * 2).round() / 2, logits_BV)
    logits_BV[:, 5:50] = float("-inf")
    top_ks_B = torch.exp(shares() * torch.log(torch.tensor(2.0 * vocab_size, device="cuda"))).int()
    min_ps_B = torch.where(some(0.2), 1.0, torch.exp(-shares() * 20))
    return logits_BV, SamplingRequest(
        temperatures_B=torch.where(some(0.1), 0.0, shares() * 1.5 + 0.3),
        top_ks_B=torch.where(some(0.4), 0, top_ks_B).int(),
        min_ps_B=torch.where(some(0.5), 0.0, min_ps_B),
        top_ps_B=torch.where(some(0.3), 1.0, torch.where(some(0.2), 1e-6, shares())),
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


def filtered(logits_BV: Tensor, asked: SamplingRequest) -> tuple[Tensor, Tensor]:
    """In float64: the probabilities drawn from, and how near the nucleus is to one with another token.

    A greedy row has temperature 1 and no filter here.
    """
    assert asked.top_ks_B is not None and asked.min_ps_B is not None
    is_greedy_B1 = (asked.temperatures_B == 0)[:, None]
    scaled_BV = logits_BV.double() / torch.where(is_greedy_B1, 1.0, asked.temperatures_B[:, None].double())
    sorted_BV, order_BV = torch.sort(scaled_BV, dim=-1, descending=True, stable=True)
    ranks_V = torch.arange(logits_BV.shape[1], device="cuda")
    top_ks_B1, top_ps_B1 = asked.top_ks_B[:, None], asked.top_ps_B[:, None].double()
    is_left_BV = (ranks_V < top_ks_B1) | (top_ks_B1 <= 0)
    is_left_BV &= sorted_BV >= sorted_BV[:, :1] + asked.min_ps_B[:, None].double().log()
    p_BV = torch.softmax(sorted_BV, -1) * (is_left_BV | is_greedy_B1)
    p_BV /= p_BV.sum(-1, keepdim=True)
    before_BV = p_BV.cumsum(-1) - p_BV
    slack_B = torch.where(p_BV > 0, (before_BV - top_ps_B1).abs(), 1.0).amin(-1)
    p_BV *= (before_BV < top_ps_B1) | (top_ps_B1 >= 1) | is_greedy_B1 | (ranks_V == 0)
    kept_BV = torch.zeros_like(p_BV).scatter_(1, order_BV, p_BV)
    return kept_BV / kept_BV.sum(-1, keepdim=True), slack_B


@pytest.mark.parametrize(
    ("num_rows", "vocab_size"), [(1024, 5), (1024, 1003), (256, 32768), (256, 65536), (128, 200064)]
)
def test_filtered_draws_are_where_the_uniform_numbers_point(
    num_rows: int, vocab_size: int, poisoned: Poisoned
) -> None:
    """Every row's token and log-probability; a nucleus whose last token hangs on rounding is left out.

    Of those there may be one in a hundred.
    """
    logits_BV, asked = random_rows(num_rows, vocab_size)
    with poisoned():
        sampled = sampler(logits_BV, asked)
    is_greedy_B = asked.temperatures_B == 0
    assert torch.equal(sampled.ids_B[is_greedy_B], logits_BV.argmax(-1)[is_greedy_B])
    uniforms = uniform_numbers(asked.seeds_B.cpu().numpy(), asked.positions_B.cpu().numpy())
    uniforms_B, wrong = torch.from_numpy(uniforms).cuda(), 0
    for rows in torch.arange(num_rows, device="cuda").split(32):
        p_BV, slack_B = filtered(logits_BV[rows], rows_of(asked, rows))
        ids_B1, u_B, is_greedy_R = sampled.ids_B[rows, None], uniforms_B[rows], is_greedy_B[rows]
        p_B, up_to_B = p_BV.gather(1, ids_B1)[:, 0], p_BV.cumsum(-1).gather(1, ids_B1)[:, 0]
        is_hit_B = (up_to_B - p_B < u_B + BORDER) & (u_B < up_to_B + BORDER) & (p_B > 0)
        expected_B = torch.where(is_greedy_R, 0.0, p_B.log()).float()
        is_close_B = (sampled.logprobs_B[rows] - expected_B).abs() <= 1e-5 + 1e-6 * expected_B.abs()
        is_right_B = (is_hit_B | is_greedy_R) & is_close_B
        assert bool((is_right_B | (slack_B < 1e-6)).all())
        wrong += int((~is_right_B).sum())
        raw_B = torch.log_softmax(logits_BV[rows].double(), -1).gather(1, ids_B1)[:, 0].float()
        torch.testing.assert_close(sampled.raw_logprobs_B[rows], raw_B, rtol=1e-6, atol=1e-5)
    assert wrong <= max(num_rows // 100, 2)


def test_few_rows_match_naive() -> None:
    logits_BV, asked = random_rows(200, 3001)
    got = sampler(logits_BV, asked)
    with using_backend(Backend.NAIVE):
        expected = sampler(logits_BV.cpu(), rows_of_cpu(asked))
    assert int((got.ids_B.cpu() != expected.ids_B).sum()) <= 1
    is_same_B = got.ids_B.cpu() == expected.ids_B
    torch.testing.assert_close(
        got.logprobs_B.cpu()[is_same_B], expected.logprobs_B[is_same_B], rtol=1e-6, atol=1e-5
    )


def rows_of_cpu(asked: SamplingRequest) -> SamplingRequest:
    columns = {field.name: getattr(asked, field.name) for field in fields(asked)}
    return replace(asked, **{name: of.cpu() for name, of in columns.items() if isinstance(of, Tensor)})


def test_frequencies_follow_the_filtered_distribution() -> None:
    num_rows, logits_V = 20_000, torch.randn(1003, device="cuda")
    ones_B = torch.ones(num_rows, device="cuda")
    asked = SamplingRequest(
        temperatures_B=ones_B * 0.8,
        top_ks_B=(ones_B * 300).int(),
        min_ps_B=ones_B * 0.02,
        top_ps_B=ones_B * 0.8,
        seeds_B=torch.arange(num_rows, device="cuda"),
        positions_B=torch.arange(num_rows, device="cuda") % 7,
    )
    p_V = filtered(logits_V[None], rows_of(asked, torch.tensor([0], device="cuda")))[0][0]
    counts_V = torch.bincount(sampler(logits_V.expand(num_rows, 1003), asked).ids_B, minlength=1003)
    assert not counts_V[p_V == 0].any()
    is_kept_V = p_V > 0
    freedom = int(is_kept_V.sum()) - 1
    assert 50 < freedom < 300
    expected_V = p_V * num_rows
    chi_square = float(((counts_V - expected_V) ** 2 / expected_V)[is_kept_V].sum())
    assert (chi_square - freedom) / (2 * freedom) ** 0.5 < 5


@pytest.mark.parametrize("vocab_size", [32768, 200064])
def test_a_filtered_row_is_drawn_alike_in_any_batch_and_again(vocab_size: int) -> None:
    logits_BV, asked = random_rows(64, vocab_size)
    together, every = sampler(logits_BV, asked), torch.arange(64, device="cuda")
    for _ in range(3):
        assert_equal(sampler(logits_BV, asked), together, every)
    for num_rows in (1, 7, 33):
        rows = torch.randperm(64, device="cuda")[:num_rows]
        assert_equal(sampler(logits_BV[rows], rows_of(asked, rows)), together, rows)
    padded_BV = torch.randn(64, vocab_size + 3, device="cuda")  # rows that start nowhere aligned
    padded_BV[:, :vocab_size] = logits_BV
    assert_equal(sampler(padded_BV[:, :vocab_size], asked), together, every)


def test_tile_sizes_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    logits_BV, asked = random_rows(64, 65536)
    expected = sampler(logits_BV, asked)
    for name, value in (
        *(("COUNT_WARPS", 8), ("COLLECT_WARPS", 4), ("SELECT_WARPS", 16), ("CANDIDATES_AT_ONCE", 2048)),
        *(("BLOCKS_A_PROGRAM", 8), ("CHUNK", 2048), ("CHUNKS_AT_ONCE", 8)),
    ):
        monkeypatch.setattr(triton_gpu, name, value)
    assert_equal(sampler(logits_BV, asked), expected, torch.arange(64, device="cuda"))


def test_rows_without_a_filter_keep_their_bits_beside_filtered_ones() -> None:
    logits_BV, asked = random_rows(64, 32768)
    is_plain_B = torch.arange(64, device="cuda") % 2 == 0
    asked = replace(
        asked,
        top_ks_B=torch.where(is_plain_B, 0, 50).int(),
        min_ps_B=torch.where(is_plain_B, 0.0, 0.01),
        top_ps_B=torch.where(is_plain_B, 1.0, 0.5),
    )
    mixed, plain = sampler(logits_BV, asked), sampler(logits_BV, replace(asked, is_filtered=False))
    for name in ("ids_B", "logprobs_B", "raw_logprobs_B"):
        assert torch.equal(getattr(mixed, name)[is_plain_B], getattr(plain, name)[is_plain_B])


def end_columns(num_rows: int) -> EndColumns:
    def numbers(low: int, high: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.randint(low, high, (num_rows,), device="cuda", dtype=dtype)

    return EndColumns(
        is_live_B=numbers(0, 5).clamp(max=1),
        num_tokens_B=numbers(0, 5),
        max_tokens_B=numbers(5, 12),
        num_certain_B=numbers(0, 4, torch.int32),
        certain_limits_B=numbers(0, 6, torch.int32),
        certain_logprobs_B=torch.full((num_rows,), -0.01, device="cuda"),
        stop_ids_BK=torch.randint(-1, 40, (num_rows, 3), device="cuda"),
        reasons_B=numbers(0, 4, torch.uint8),
        last_ids_B=numbers(0, 40),
        positions_B=numbers(0, 40),
    )


def assert_columns_equal(got: EndColumns, expected: EndColumns) -> None:
    for field in fields(got):
        assert torch.equal(getattr(got, field.name).cpu(), getattr(expected, field.name).cpu()), field.name


@pytest.mark.parametrize("num_rows", [1, 64, 257])
def test_rows_end_as_naive_says(num_rows: int) -> None:
    state = end_columns(num_rows)
    truth = EndColumns(**{field.name: getattr(state, field.name).cpu() for field in fields(state)})
    for _ in range(8):
        ids_B = torch.randint(40, (num_rows,), device="cuda")
        raw_logprobs_B = -torch.rand(num_rows, device="cuda") * 0.02
        drawn = SampledTokens(ids_B=ids_B, logprobs_B=raw_logprobs_B, raw_logprobs_B=raw_logprobs_B)
        apply_end_rules(drawn, state)
        with using_backend(Backend.NAIVE):
            on_host = {name: getattr(drawn, name).cpu() for name in ("ids_B", "logprobs_B", "raw_logprobs_B")}
            apply_end_rules(SampledTokens(**on_host), truth)
        assert_columns_equal(state, truth)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_nothing_waits_for_the_host_and_a_graph_draws_and_ends_alike() -> None:
    logits_BV, asked = random_rows(16, 5000)
    state = replace(end_columns(16), positions_B=asked.positions_B)  # the rules move the next draw's place
    apply_end_rules(sampler(logits_BV, asked), state)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        apply_end_rules(sampler(logits_BV, asked), state)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    state.is_live_B.fill_(1)
    state.num_tokens_B.zero_()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = sampler(logits_BV, asked)
        apply_end_rules(recorded, state)
    for _ in range(4):
        expected_state = EndColumns(**{f.name: getattr(state, f.name).clone() for f in fields(state)})
        expected = sampler(logits_BV, replace(asked, positions_B=expected_state.positions_B))
        apply_end_rules(expected, expected_state)
        graph.replay()
        assert_equal(recorded, expected, torch.arange(16, device="cuda"))
        assert_columns_equal(state, expected_state)
