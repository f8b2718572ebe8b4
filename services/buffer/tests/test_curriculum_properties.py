"""Whatever happens: the tree is the list it stands for, shares are shares, and pages leave no seam."""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from forklight_buffer.curriculum.schedule import Moment, Stock, split_shares
from forklight_buffer.curriculum.state import CurriculumState
from forklight_buffer.curriculum.tree import WeightTree
from forklight_buffer.prompts import read_prompts
from forklight_buffer.records import Evidence
from services.buffer.tests.curriculum_world import domain_rows, page_of, run_file_of, write_rows

QUICK = settings(max_examples=60, deadline=None, derandomize=True, database=None)
ROWS = [
    *domain_rows("math", 5),
    *domain_rows("code", 4, synthetic=True),
    *[row for level in (1, 2, 3) for row in domain_rows("logic", 3, source="t", level=level)],
]
NAMES = [str(row["id"]) for row in ROWS]
CURRICULUM = {
    "levels": {"min_groups": 2},
    "domains": {"math": {"by_step": [[0, 0.0], [4, 1.0]]}, "code": {}, "logic": {"weight": 0.5}},
}


@QUICK
@given(
    some.integers(1, 40),
    some.integers(0, 9),
    some.lists(some.tuples(some.integers(0, 39), some.integers(0, 2**40)), max_size=60),
)
def test_a_tree_finds_what_a_list_of_weights_would(
    num_slots: int, first: int, changes: list[tuple[int, int]]
) -> None:
    tree, weights = WeightTree(num_slots, first), [first] * num_slots
    for slot, weight in changes:
        tree.change(slot % num_slots, weight)
        weights[slot % num_slots] = weight
    assert (tree.total, [tree.weight(slot) for slot in range(num_slots)]) == (sum(weights), weights)
    for slot, end in enumerate(itertools.accumulate(weights)):
        if weights[slot]:
            assert tree.find(end - weights[slot]) == (slot, 0)
            assert tree.find(end - 1) == (slot, weights[slot] - 1)


STOCKS = some.builds(
    lambda plain, made: Stock(plain=plain, synthetic=made), some.integers(0, 9), some.integers(0, 9)
)


@QUICK
@given(
    some.dictionaries(some.sampled_from("abcd"), some.tuples(some.floats(0, 9), STOCKS)),
    some.floats(0.0, 1.0),
)
def test_shares_are_shares_and_the_synthetic_one_is_cut_exactly(
    domains: dict[str, tuple[float, Stock]], factor: float
) -> None:
    weights = {name: weight for name, (weight, _) in domains.items()}
    stocks = {name: stock for name, (_, stock) in domains.items()}
    shares = split_shares(weights, stocks, factor)
    drawn = [name for name in domains if weights[name] and stocks[name].total]
    assert bool(shares) == bool(drawn)
    if not shares:
        return
    assert sum(shares.values()) == pytest.approx(1.0) and min(shares.values()) >= -1e-12
    assert all((stocks[name].synthetic if made else stocks[name].plain) for name, made in shares)
    before = split_shares(weights, stocks, 1.0)
    for name in drawn:
        whole = weights[name] / sum(weights[each] for each in drawn)
        assert before.get((name, True), 0.0) + before.get((name, False), 0.0) == pytest.approx(whole)
    if any(stocks[name].plain for name in drawn):
        cut, uncut = (sum(part for (_, made), part in each.items() if made) for each in (shares, before))
        assert cut == pytest.approx(factor * uncut)


FINISHED = some.lists(
    some.tuples(some.sampled_from(NAMES), some.sampled_from([0, 8]), some.floats(0.0, 1.0)), max_size=40
)


@QUICK
@given(FINISHED, some.lists(some.integers(1, 9), max_size=8), some.integers(0, 6))
def test_evidence_in_any_pages_leads_to_the_same_next_picks(
    finished: list[tuple[str, int, float]], cuts: list[int], step: int
) -> None:
    """What was learned bit by bit, with openings in between, is what a buffer that starts again reads."""
    with tempfile.TemporaryDirectory() as folder:
        book = read_prompts(write_rows(Path(folder) / "train.jsonl", ROWS), seed=0, shuffle=True)
    rows = [
        Evidence(number, name, scored, scored * rate, 0)
        for number, (name, scored, rate) in enumerate(finished, start=1)
    ]
    at_once, bit_by_bit = (CurriculumState(book, run_file_of(**CURRICULUM)) for _ in range(2))
    moment, left, position = Moment(step=step, window=10), list(rows), 0
    for size in [*cuts, len(rows)]:
        bit_by_bit.draw(position, moment)
        bit_by_bit.learn(page_of(left[:size], after=bit_by_bit.last_number))
        left, position = left[size:], position + 1
    at_once.learn(page_of(rows))
    still_open = json.loads(json.dumps({NAMES[0]: 1}))
    for state in (at_once, bit_by_bit):
        state.set_open(still_open)
    assert list(at_once.changes) == list(bit_by_bit.changes)
    picks = [[state.draw(place, moment) for place in range(100, 130)] for state in (at_once, bit_by_bit)]
    assert picks[0] == picks[1]
