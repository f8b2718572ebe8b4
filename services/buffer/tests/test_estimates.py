"""pass@k and its intervals against exact fractions, against simulation, and at the edges."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forklight_buffer.evaluation.estimates import (
    PromptResult,
    Question,
    bootstrap,
    estimate_pass,
    estimate_round,
    pass_at_k,
    results_by_prompt,
)
from forklight_buffer.records import EvaluatedSample


def sample(prompt: int, reward: float | None, correct: float | None = None) -> EvaluatedSample:
    return EvaluatedSample(group_id=f"r/e000000-{prompt:05d}", reason="", reward=reward, correct=correct)


def round_of(*rewards: list[float | None]) -> list[EvaluatedSample]:
    return [sample(prompt, reward) for prompt, found in enumerate(rewards) for reward in found]


@pytest.mark.parametrize("num_samples", [1, 2, 5, 16, 64, 1000])
def test_pass_at_k_is_the_equation_transcribed(num_samples: int) -> None:
    for num_passed in {0, 1, 2, num_samples // 2, num_samples - 1, num_samples}:
        if not 0 <= num_passed <= num_samples:
            continue
        for k in {1, 2, num_samples // 3, num_samples}:
            if 1 <= k <= num_samples:
                wrong = Fraction(math.comb(num_samples - num_passed, k), math.comb(num_samples, k))
                assert pass_at_k(num_samples, num_passed, k) == pytest.approx(float(1 - wrong), abs=1e-14)


def test_pass_at_k_is_the_share_of_draws_that_hold_a_pass() -> None:
    passes = [True, False, False, True, False, False, False]
    for k in range(1, 8):
        draws = [any(draw) for draw in combinations(passes, k)]
        assert pass_at_k(7, 2, k) == pytest.approx(sum(draws) / len(draws))


counts = st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))


@given(counts)
def test_pass_at_k_grows_with_k_and_with_passes_and_pass_at_1_is_the_rate(
    found: tuple[int, int, int],
) -> None:
    num_samples, num_passed, k = found
    value = pass_at_k(num_samples, num_passed, k)
    assert 0.0 <= value <= 1.0
    assert (value > 0.0) == (num_passed > 0)
    assert pass_at_k(num_samples, num_passed, 1) == pytest.approx(num_passed / num_samples)
    if k < num_samples:
        assert value <= pass_at_k(num_samples, num_passed, k + 1) + 1e-12
    if num_passed < num_samples:
        assert value <= pass_at_k(num_samples, num_passed + 1, k) + 1e-12


def test_pass_at_k_is_unbiased() -> None:
    """Its mean over all outcomes of n samples with pass rate p is 1 - (1 - p)^k, exactly."""
    rate, num_samples = Fraction(3, 10), 6
    for k in (1, 2, 4, 6):
        mean = sum(
            math.comb(num_samples, passed)
            * rate**passed
            * (1 - rate) ** (num_samples - passed)
            * (1 - Fraction(math.comb(num_samples - passed, k), math.comb(num_samples, k)))
            for passed in range(num_samples + 1)
        )
        assert mean == 1 - (1 - rate) ** k


rewards = st.lists(
    st.lists(st.sampled_from([0.0, 0.25, 1.0, None]), min_size=1, max_size=6), min_size=1, max_size=12
)


@settings(max_examples=60, deadline=None)
@given(rewards, st.integers(1, 6))
def test_estimates_are_in_order_the_same_again_and_know_nothing_of_failed_samples(
    found: list[list[float | None]], k: int
) -> None:
    question = Question(pass_at=(k, 1) if k > 1 else (1,), seed=3)
    estimates = estimate_round(round_of(*found), question)
    assert estimates == estimate_round(round_of(*found), question)
    scored = [[reward for reward in prompt if reward is not None] for prompt in found]
    assert estimates.num_scored_prompts == sum(map(bool, scored))
    assert estimates.pass_at == estimate_round(round_of(*scored), question).pass_at  # type: ignore[arg-type]
    assert [each.k for each in estimates.pass_at] == sorted(each.k for each in estimates.pass_at)
    for each in estimates.pass_at:
        assert 0.0 <= each.low <= each.value + 1e-12 and each.value <= each.high + 1e-12 <= 1.0 + 1e-9
        assert each.num_prompts == sum(len(prompt) >= each.k for prompt in scored)
    every = [reward for prompt in scored for reward in prompt]
    if estimates.reward_low is not None and estimates.reward_high is not None:
        assert min(every) <= estimates.reward_low <= estimates.reward_high <= max(every)
    else:
        assert estimates.num_scored_prompts < 2


def test_a_failed_sample_makes_its_prompt_say_nothing_of_larger_k_and_is_never_wrong() -> None:
    estimates = estimate_round(round_of([1.0, None], [1.0, 1.0], [None, None]), Question(pass_at=(1, 2)))
    first, second = estimates.pass_at
    assert (first.value, first.num_prompts) == (1.0, 2)
    assert (second.value, second.num_prompts) == (1.0, 1)
    assert estimate_round(round_of([None], [None]), Question()).pass_at == ()
    empty = estimate_round([], Question())
    assert (empty.num_scored_prompts, empty.reward_low, empty.pass_at) == (0, None, ())


def test_a_pass_is_decided_on_how_right_the_answer_is_not_on_weights() -> None:
    samples = [sample(0, 0.4, 1.0), sample(0, 3.0, 0.9), sample(0, 2.0)]
    (found,) = results_by_prompt(samples, 1.0)
    assert (found.num_scored, found.num_passed, found.sum_rewards) == (3, 2, pytest.approx(5.4))
    (lenient,) = results_by_prompt(samples, 0.5)
    assert lenient.num_passed == 3


@pytest.mark.parametrize("num_prompts", [1, 2, 12, 200])
def test_a_perfect_or_hopeless_round_is_no_proof(num_prompts: int) -> None:
    """The rule of three and its kin: with n of n passed, a mean below `low` would show that with 2.5 %."""
    question = Question()
    perfect = estimate_pass(
        [PromptResult(num_scored=1, num_passed=1, sum_rewards=1.0)] * num_prompts, 1, question
    )
    hopeless = estimate_pass(
        [PromptResult(num_scored=1, num_passed=0, sum_rewards=0.0)] * num_prompts, 1, question
    )
    assert perfect is not None and hopeless is not None
    assert (perfect.value, perfect.high) == (1.0, 1.0)
    assert perfect.low**num_prompts == pytest.approx(0.025)
    assert (hopeless.low, hopeless.high) == (0.0, pytest.approx(1.0 - perfect.low))


def test_one_prompt_alone_tells_nothing_of_others() -> None:
    estimates = estimate_round(round_of([1.0, 0.0]), Question())
    assert (estimates.reward_low, estimates.reward_high) == (None, None)
    (found,) = estimates.pass_at
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)


def test_the_interval_is_that_of_the_normal_law_when_there_are_many_prompts() -> None:
    generator = np.random.default_rng(5)
    values = (generator.random(5000) < 0.3).astype(np.float64)
    low, high = bootstrap(values, np.ones_like(values), 0.95, [0])
    half = 1.959964 * math.sqrt(values.mean() * (1 - values.mean()) / len(values))
    assert low == pytest.approx(values.mean() - half, abs=half * 0.12)
    assert high == pytest.approx(values.mean() + half, abs=half * 0.12)


def test_prompts_are_drawn_again_and_not_samples() -> None:
    """Eight samples a prompt that all say the same are one witness, not eight."""
    generator = np.random.default_rng(7)
    right = generator.random(64) < 0.5
    alike = round_of(*([float(value)] * 8 for value in right))
    single = round_of(*([float(value)] for value in right))
    for found, other in zip(
        estimate_round(alike, Question()).pass_at, estimate_round(single, Question()).pass_at, strict=True
    ):
        assert (found.low, found.high) == (other.low, other.high)
        assert found.high - found.low > 0.2


@pytest.mark.parametrize(
    ("num_prompts", "num_samples", "k", "least"),
    [(24, 1, 1, 0.88), (64, 1, 1, 0.90), (64, 4, 1, 0.91), (64, 4, 4, 0.90), (256, 2, 1, 0.92)],
)
def test_the_interval_holds_the_truth_about_as_often_as_it_says(
    num_prompts: int, num_samples: int, k: int, least: float
) -> None:
    """Prompts of different difficulty, Beta(1, 2): the true pass@k is E[1 - (1 - p)^k] = 1 - 2 / (k + 2)."""
    truth, generator = 1.0 - 2.0 / (k + 2.0), np.random.default_rng(num_prompts * 100 + num_samples * 10 + k)
    num_trials, num_held = 400, 0
    for trial in range(num_trials):
        rates = generator.beta(1.0, 2.0, size=num_prompts)
        passed = generator.binomial(num_samples, rates)
        values = np.array([pass_at_k(num_samples, int(count), k) for count in passed])
        low, high = bootstrap(values, np.ones_like(values), 0.95, [trial], resamples=500)
        num_held += low <= truth <= high
    assert least <= num_held / num_trials <= 0.985
