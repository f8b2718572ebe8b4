"""Sampling: reproducible whatever the batch, and distributed as asked. Legend: B sequences, V vocabulary."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from forklight_kernels import Backend, SampledTokens, SamplingRequest, sampler, using_backend
from forklight_kernels.sampler.randomness import uniform_numbers


def request(
    num_sequences: int, temperature: float = 1.0, top_p: float = 1.0, first_seed: int = 0
) -> SamplingRequest:
    return SamplingRequest(
        temperatures_B=torch.full((num_sequences,), temperature),
        top_ps_B=torch.full((num_sequences,), top_p),
        seeds_B=torch.arange(first_seed, first_seed + num_sequences),
        positions_B=torch.arange(num_sequences) % 7,
    )


def take(asked: SamplingRequest, rows: Tensor) -> SamplingRequest:
    return SamplingRequest(
        temperatures_B=asked.temperatures_B[rows],
        top_ps_B=asked.top_ps_B[rows],
        seeds_B=asked.seeds_B[rows],
        positions_B=asked.positions_B[rows],
    )


def mixed_request(num_sequences: int) -> SamplingRequest:
    return SamplingRequest(
        temperatures_B=torch.rand(num_sequences) * (torch.arange(num_sequences) % 4 > 0),
        top_ps_B=torch.where(torch.arange(num_sequences) % 3 > 0, torch.rand(num_sequences) * 0.9 + 0.1, 1.0),
        seeds_B=torch.randint(-(2**63), 2**63 - 1, (num_sequences,)),
        positions_B=torch.randint(100_000, (num_sequences,)),
    )


def assert_same(got: SampledTokens, expected: SampledTokens) -> None:
    assert torch.equal(got.ids_B, expected.ids_B)
    torch.testing.assert_close(got.logprobs_B, expected.logprobs_B)
    torch.testing.assert_close(got.raw_logprobs_B, expected.raw_logprobs_B)


def test_batch_matches_naive_for_mixed_settings() -> None:
    logits_BV, asked = torch.randn(300, 41) * 3, mixed_request(300)
    with using_backend(Backend.NAIVE):
        expected = sampler(logits_BV, asked)
    assert_same(sampler(logits_BV, asked), expected)


def test_a_sequence_draws_the_same_token_in_any_batch() -> None:
    logits_BV, asked = torch.randn(64, 103) * 2, mixed_request(64)
    together = sampler(logits_BV, asked)
    shuffled = torch.randperm(64)
    assert torch.equal(sampler(logits_BV[shuffled], take(asked, shuffled)).ids_B, together.ids_B[shuffled])
    for row in range(64):
        alone = sampler(logits_BV[row : row + 1], take(asked, torch.tensor([row])))
        assert_same(
            alone,
            SampledTokens(
                ids_B=together.ids_B[row : row + 1],
                logprobs_B=together.logprobs_B[row : row + 1],
                raw_logprobs_B=together.raw_logprobs_B[row : row + 1],
            ),
        )


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_frequencies_follow_the_distribution(temperature: float) -> None:
    draws, logits_V = 40_000, torch.tensor([2.0, 1.0, 0.0, -1.0, 1.5])
    sampled = sampler(logits_V.expand(draws, 5), request(draws, temperature))
    expected_V = torch.softmax(logits_V / temperature, dim=-1) * draws
    chi_square = float(((torch.bincount(sampled.ids_B, minlength=5) - expected_V) ** 2 / expected_V).sum())
    assert chi_square < 23.5  # 4 degrees of freedom: exceeded once in 10,000
    torch.testing.assert_close(
        sampled.logprobs_B, torch.log_softmax(logits_V / temperature, dim=-1)[sampled.ids_B]
    )


def test_top_p_keeps_the_fewest_tokens_that_reach_it() -> None:
    logits_V = torch.log(torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15]))
    sampled = sampler(logits_V.expand(4000, 5), request(4000, top_p=0.75))
    assert set(sampled.ids_B.tolist()) == {1, 3, 4}
    expected_V = torch.log(torch.tensor([0.0, 0.4, 0.0, 0.3, 0.15]) / 0.85)
    torch.testing.assert_close(sampled.logprobs_B, expected_V[sampled.ids_B])
    torch.testing.assert_close(sampled.raw_logprobs_B, logits_V[sampled.ids_B])


def test_top_p_below_the_largest_probability_keeps_one_token() -> None:
    sampled = sampler(torch.tensor([[0.0, 3.0, 1.0]]).expand(50, 3), request(50, top_p=0.01))
    assert sampled.ids_B.eq(1).all() and sampled.logprobs_B.eq(0).all()


def test_zero_temperature_takes_the_first_most_probable_token() -> None:
    sampled = sampler(torch.tensor([[0.0, 5.0, 5.0], [9.0, 1.0, 2.0]]), request(2, temperature=0.0))
    assert sampled.ids_B.tolist() == [1, 0] and sampled.logprobs_B.tolist() == [0.0, 0.0]
    assert sampled.raw_logprobs_B[0] == pytest.approx(np.log(np.exp(5) / (2 * np.exp(5) + 1)))


def test_an_impossible_token_is_never_drawn() -> None:
    logits_BV = torch.zeros(5000, 4)
    logits_BV[:, [0, 3]] = float("-inf")
    assert set(sampler(logits_BV, request(5000)).ids_B.tolist()) == {1, 2}


def test_uniform_numbers_are_uniform_and_uncorrelated_between_neighbours() -> None:
    seeds, positions = np.meshgrid(np.arange(400), np.arange(400), indexing="ij")
    numbers = uniform_numbers(seeds.reshape(-1), positions.reshape(-1)).reshape(400, 400)
    assert numbers.min() >= 0 and numbers.max() < 1
    counts = np.histogram(numbers, bins=100, range=(0, 1))[0]
    assert ((counts - 1600) ** 2 / 1600).sum() < 160  # 99 degrees of freedom: exceeded once in 10,000
    for first, second in ((numbers[1:], numbers[:-1]), (numbers[:, 1:], numbers[:, :-1])):
        assert abs(np.corrcoef(first.reshape(-1), second.reshape(-1))[0, 1]) < 0.012


def test_a_promise_of_no_filter_changes_nothing() -> None:
    logits_BV, asked = torch.randn(20, 41), request(20, 0.8)
    assert_same(sampler(logits_BV, replace(asked, is_filtered=False)), sampler(logits_BV, asked))


@pytest.mark.parametrize(
    ("logits_BV", "changes", "message"),
    [
        (torch.zeros(41), {}, "logits has shape"),
        (torch.zeros(2, 0), {}, "logits have no columns"),
        (torch.zeros(2, 41), {"seeds_B": torch.zeros(3, dtype=torch.int64)}, "seeds has shape"),
        (torch.zeros(2, 41), {"top_ps_B": torch.ones(2, device="meta")}, "top_ps are on meta"),
    ],
)
def test_a_request_that_cannot_be_is_refused(
    logits_BV: Tensor, changes: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sampler(logits_BV, replace(request(2), **changes))
