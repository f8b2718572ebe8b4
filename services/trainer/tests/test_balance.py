"""Packs for engines of several lanes: complete, within capacity, few rounds, and lanes about equally busy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forklight_model.config import ModelConfig
from forklight_model.planning.counts import attention_flops, forward_flops
from forklight_model.sizes import SIZES
from forklight_trainer.batches.balance import Cost, assign_packs, length_cost

CAPACITY = 96 * 1024  # a window of 80K, a prompt, and what then is left
LANES = st.sampled_from([2, 3, 4, 8, 16])
M1_COST = length_cost(SIZES["minimax-m1"])
COSTS = {"tokens": float, "arithmetic of minimax-m1": M1_COST}


@st.composite
def length_mixes(draw: st.DrawFn) -> list[int]:
    """Up to a few hundred responses of 1K to 80K: even, skewed as lengths are, or of two kinds."""
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    number, kind = draw(st.integers(1, 120)), draw(st.sampled_from(["even", "skewed", "two kinds"]))
    if kind == "even":
        found = chance.integers(1_000, 80_000, number)
    elif kind == "skewed":
        found = np.clip(chance.lognormal(9.5, 0.9, number), 1_000, 80_000)
    else:
        short, long = chance.integers(1_000, 5_000, number), chance.integers(70_000, 80_000, number)
        found = np.where(chance.random(number) < 0.5, short, long)
    return [int(length) for length in found]


def rounds_of(packs: list[list[int]], num_lanes: int) -> list[list[list[int]]]:
    return [packs[start : start + num_lanes] for start in range(0, len(packs), num_lanes)]


def step_cost(packs: list[list[int]], num_lanes: int, costs: Sequence[float]) -> float:
    """A round takes as long as its costliest pack: no lane is busy for longer than this."""
    return sum(max(sum(costs[i] for i in pack) for pack in each) for each in rounds_of(packs, num_lanes))


def lower_bound(lengths: Sequence[int], costs: Sequence[float], num_lanes: int) -> float:
    """No schedule is faster: an equal share, k + 1 of the k x lanes + 1 costliest in one lane, and the rounds
    of those that are too long to share a pack with each other."""
    ordered = sorted(costs, reverse=True)
    stacked = max((k + 1) * cost for k, cost in enumerate(ordered[::num_lanes]))
    alone = sorted((c for n, c in zip(lengths, costs, strict=True) if 2 * n > CAPACITY), reverse=True)
    return max(sum(costs) / num_lanes, stacked, sum(alone[::num_lanes]))


def first_fit_decreasing(lengths: Sequence[int]) -> int:
    """How many packs the plain algorithm makes."""
    room: list[int] = []
    for length in sorted(lengths, reverse=True):
        place = next((place for place, left in enumerate(room) if left >= length), None)
        if place is None:
            room.append(CAPACITY - length)
        else:
            room[place] -= length
    return len(room)


@given(length_mixes(), st.one_of(st.just(1), LANES), st.sampled_from(sorted(COSTS)))
@settings(max_examples=40, deadline=None)
def test_packs_when_lengths_are_mixed_hold_every_sample_once_within_capacity(
    lengths: list[int], num_lanes: int, cost: str
) -> None:
    packs = assign_packs(lengths, capacity=CAPACITY, num_lanes=num_lanes, cost=COSTS[cost])
    assert sorted(itertools.chain.from_iterable(packs)) == list(range(len(lengths)))
    assert all(pack and sum(lengths[i] for i in pack) <= CAPACITY for pack in packs)
    assert packs == assign_packs(lengths, capacity=CAPACITY, num_lanes=num_lanes, cost=COSTS[cost])


@given(length_mixes(), LANES)
@settings(max_examples=40, deadline=None)
def test_rounds_when_lanes_are_several_are_no_more_than_first_fit_decreasing_needs(
    lengths: list[int], num_lanes: int
) -> None:
    packs = assign_packs(lengths, capacity=CAPACITY, num_lanes=num_lanes, cost=M1_COST)
    num_rounds = len(rounds_of(packs, num_lanes))
    assert num_rounds <= -(-first_fit_decreasing(lengths) // num_lanes)
    # Lanes have equally many packs as soon as there are samples enough.
    assert len(packs) == min(len(lengths), num_rounds * num_lanes)


@given(length_mixes(), LANES, st.sampled_from(sorted(COSTS)))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_fullest_lane_when_lengths_are_mixed_is_within_a_third_of_the_lower_bound(
    lengths: list[int], num_lanes: int, cost: str
) -> None:
    costs = [COSTS[cost](length) for length in lengths]
    packs = assign_packs(lengths, capacity=CAPACITY, num_lanes=num_lanes, cost=COSTS[cost])
    num_long = sum(2 * length > CAPACITY for length in lengths)
    fewest = max(-(-sum(lengths) // (CAPACITY * num_lanes)), -(-num_long // num_lanes))
    # A round more than any count proves necessary: samples do not divide, and its pack costs what it costs.
    allowed = 4 / 3 if len(rounds_of(packs, num_lanes)) == fewest else 3 / 2
    assert step_cost(packs, num_lanes, costs) <= allowed * lower_bound(lengths, costs, num_lanes)


def test_packs_when_one_lane_are_those_of_first_fit_decreasing() -> None:
    lengths = [5, 9, 3, 8, 2, 7, 1, 6]
    assert assign_packs(lengths, capacity=10) == [[1, 6], [3, 4], [2, 5], [7], [0]]
    assert assign_packs([], capacity=10) == []
    assert assign_packs([], capacity=10, num_lanes=4) == []


def test_packs_when_few_samples_are_long_put_them_in_one_round() -> None:
    # Equal packs would have a long one in each of the two rounds.
    lengths = [80_000, 80_000] + [4_000] * 90
    packs = assign_packs(lengths, capacity=CAPACITY, num_lanes=4)
    assert len(packs) == 8
    assert [index for pack in packs[:4] for index in pack if index < 2] == [0, 1]
    assert step_cost(packs, 4, [float(n) for n in lengths]) < 1.05 * sum(lengths) / 4


def test_packs_when_samples_are_fewer_than_lanes_are_one_each() -> None:
    assert assign_packs([10, 30, 20], capacity=100, num_lanes=8) == [[1], [2], [0]]


def test_packs_when_attention_counts_are_lighter_for_the_longer() -> None:
    """One of 80K against ten of 8K: as many tokens, and more arithmetic."""
    lengths, nano = [80_000] + [8_000] * 30, length_cost(SIZES["nano"])
    by_tokens = assign_packs(lengths, capacity=200_000, num_lanes=4)
    by_cost = assign_packs(lengths, capacity=200_000, num_lanes=4, cost=nano)
    with_long = [next(pack for pack in packs if 0 in pack) for packs in (by_tokens, by_cost)]
    costs = [nano(n) for n in lengths]
    assert step_cost(by_cost, 4, costs) <= step_cost(by_tokens, 4, costs)
    assert [len(pack) for pack in with_long] == [1, 1]
    assert max(len(pack) for pack in by_cost) == 10


@pytest.mark.parametrize("name", sorted(SIZES))
def test_cost_when_taken_from_a_model_is_its_arithmetic_over_a_causal_sequence(name: str) -> None:
    config: ModelConfig = SIZES[name]
    cost: Cost = length_cost(config)
    one = forward_flops(config, 0.0)
    for tokens in (1, 1_000, 80_000):
        whole = sum(one + attention_flops(config, place) for place in (0.0, float(tokens))) / 2 * tokens
        assert cost(tokens) == pytest.approx(whole / one, rel=1e-9)
