"""Filters, arguments and the count of certain tokens. Needs no vLLM."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from forklight_core.errors import InvalidInputError
from forklight_vllm_plugin.arguments import RequestArguments, read_arguments
from forklight_vllm_plugin.drawing import DrawBatch, draw
from forklight_vllm_plugin.repetition import CertainRun

PLAIN = RequestArguments(temperature=1.0)
CPU = torch.device("cpu")


def drawn_ids(shares: list[float], row: RequestArguments) -> set[int]:
    """The ids that a row's rules let through, out of many draws."""
    logits_BV = torch.log(torch.tensor([shares])).repeat(300, 1)
    batch = DrawBatch.of([replace(row, seed=seed) for seed in range(300)], CPU)
    return set(draw(logits_BV, batch, torch.zeros(300)).ids_B.tolist())


def test_filters_reach_the_sampler() -> None:
    shares = [0.1, 0.4, 0.05, 0.25, 0.2]
    assert drawn_ids(shares, replace(PLAIN, top_k=2)) == {1, 3}
    assert drawn_ids(shares, replace(PLAIN, min_p=0.45)) == {1, 3, 4}
    assert drawn_ids(shares, replace(PLAIN, top_p=0.5)) == {1, 3}
    assert drawn_ids(shares, PLAIN) == {0, 1, 2, 3, 4}
    assert drawn_ids(shares, replace(PLAIN, temperature=0.0, top_k=3)) == {1}


def test_rows_of_a_batch_are_drawn_by_their_own_rules() -> None:
    rows = [replace(PLAIN, top_k=1), PLAIN, replace(PLAIN, temperature=0.0)]
    batch = DrawBatch.of([replace(row, seed=seed) for seed in range(60) for row in rows], CPU)
    ids_B = draw(torch.tensor([[1.0, 2.0, 3.0]] * 180), batch, torch.zeros(180)).ids_B.view(60, 3)
    assert [len(set(column)) for column in ids_B.T.tolist()] == [1, 3, 1]


def test_a_draw_is_of_its_seed_and_position() -> None:
    logits_BV = torch.zeros(64, 50)
    batch = DrawBatch.of([replace(PLAIN, seed=seed) for seed in range(64)], CPU)
    here, again, there = (draw(logits_BV, batch, torch.full((64,), place)).ids_B for place in (3, 3, 4))
    assert torch.equal(here, again)
    assert not torch.equal(here, there)


def test_a_cut_draw_tells_both_its_own_and_the_models_logprob() -> None:
    logits_BV = torch.log(torch.tensor([[0.5, 0.3, 0.2]])).repeat(200, 1)
    rows = [replace(PLAIN, top_k=2, seed=seed) for seed in range(200)]
    drawn = draw(logits_BV, DrawBatch.of(rows, CPU), torch.zeros(200))
    assert set(drawn.ids_B.tolist()) == {0, 1}
    of_kept = torch.log(torch.tensor([0.5, 0.3]) / 0.8)[drawn.ids_B]
    torch.testing.assert_close(drawn.logprobs_B, of_kept, atol=1e-6, rtol=0)
    torch.testing.assert_close(drawn.raw_logprobs_B, logits_BV[0, drawn.ids_B].float(), atol=1e-6, rtol=0)


def test_a_nucleus_is_taken_of_what_the_other_filters_leave() -> None:
    logits_BV = torch.log(torch.tensor([[0.4, 0.3, 0.2, 0.1]])).repeat(200, 1)
    # Of the two that are left, the first alone holds 0.4 / 0.7 = 0.57; of all four it would be 0.4.
    rows = [replace(PLAIN, top_k=2, top_p=0.55, seed=seed) for seed in range(200)]
    assert set(draw(logits_BV, DrawBatch.of(rows, CPU), torch.zeros(200)).ids_B.tolist()) == {0}


def test_arguments_come_as_written_and_unknown_ones_are_refused() -> None:
    assert read_arguments({"forklight": {"temperature": 0.5, "seed": -3}}) == RequestArguments(
        temperature=0.5, seed=-3
    )
    assert read_arguments(None) == RequestArguments()
    with pytest.raises(InvalidInputError, match="temprature"):
        read_arguments({"forklight": {"temprature": 0.5}})
    with pytest.raises(InvalidInputError, match="must be a mapping"):
        read_arguments({"forklight": 3})


def test_certain_tokens_are_counted_in_a_row() -> None:
    run = CertainRun(replace(PLAIN, repetition_tokens=3, repetition_probability=0.5))
    assert [run.add([value]) for value in (-0.1, -0.1, -2.0, -0.1, -0.1, -0.1)] == [False] * 5 + [True]


def test_certainty_of_a_prefix_counts_and_the_bound_itself_does_not() -> None:
    rule = replace(PLAIN, repetition_tokens=3, repetition_probability=0.5, num_certain=2)
    assert CertainRun(rule).add([-0.1])
    assert not CertainRun(rule).add([math.log(0.5)])


def test_without_a_limit_nothing_repeats() -> None:
    assert not CertainRun(PLAIN).add([0.0] * 10)
