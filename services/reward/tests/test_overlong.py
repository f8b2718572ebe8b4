"""DAPO's soft overlong penalty against its published formula, borders included."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forklight_core.runfile import RunFile
from forklight_reward.front.reward import Length, RewardPolicy, overlong_penalty, policy_of
from forklight_reward.ports import Outcome, Part, Status


def published(num_tokens: int, longest: int, cache: int) -> Fraction:
    """DAPO, equation 13: 0 up to L_max - L_cache, then (L_max - L_cache - |y|) / L_cache, -1 above L_max."""
    if num_tokens <= longest - cache:
        return Fraction(0)
    if num_tokens <= longest:
        return Fraction(longest - cache - num_tokens, cache)
    return Fraction(-1)


@given(st.integers(1, 81_920), st.data())
@settings(max_examples=200, deadline=None)
def test_penalty_when_compared_with_the_published_formula_is_equal(longest: int, data: st.DataObject) -> None:
    cache = data.draw(st.integers(1, longest))
    border = longest - cache
    near = [n for edge in (0, border, longest) for n in range(edge - 1, edge + 2) if n >= 0]
    for num_tokens in (*near, data.draw(st.integers(0, 2 * longest))):
        found = overlong_penalty(num_tokens, longest, cache)
        assert found == pytest.approx(float(published(num_tokens, longest, cache)), rel=1e-15, abs=0.0)


def test_penalty_when_at_its_borders_is_exactly_0_and_minus_1() -> None:
    window, zone = 20_480, 4_096  # DAPO's own figures
    found = [overlong_penalty(n, window, zone) for n in (16_384, 16_385, 18_432, 20_479, 20_480, 20_481)]
    assert found == [0.0, -1 / 4096, -0.5, -4095 / 4096, -1.0, -1.0]


@given(st.integers(2, 5_000), st.integers(1, 5_000))
@settings(max_examples=50, deadline=None)
def test_penalty_when_responses_grow_never_rises_and_never_leaps(window: int, zone: int) -> None:
    zone = min(zone, window)
    found = [overlong_penalty(num_tokens, window, zone) for num_tokens in range(window + 3)]
    steps = [before - after for before, after in pairwise(found)]
    assert min(steps) >= 0.0 and max(steps) <= 1.0 / zone + 1e-12
    assert (found[0], found[-1]) == (0.0, -1.0)


@pytest.mark.parametrize(
    ("num_tokens", "score"), [(16_384, 1.0), (18_432, 0.5), (20_480, 0.0), (99_999, 0.0)]
)
def test_reward_when_a_right_answer_is_overlong_is_correctness_plus_the_penalty(
    num_tokens: int, score: float
) -> None:
    raw = {"sampling": {"max_new_tokens": 20_480}, "recipe": {"overlong_tokens": 4_096}}
    policy: RewardPolicy = policy_of(RunFile.model_validate(raw))
    right = Outcome(status=Status.OK, parts={Part.CORRECT: 1.0}, evidence="", worker="w")
    found, parts = policy.compose(right, Length(num_response_tokens=num_tokens))
    assert (found, parts[Part.OVERLONG]) == (score, score - 1.0)
