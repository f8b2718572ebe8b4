"""When a sequence ends: the rules one by one, their order, and that rows that are not live stay as they are.

Legend: B sequences, K stop ids.
"""

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from forklight_kernels import Backend, EndColumns, EndReason, SampledTokens, apply_end_rules, using_backend

BACKENDS = [Backend.NAIVE, Backend.TORCH, *([] if torch.cuda.is_available() else [Backend.TRITON])]
CERTAIN, DOUBTFUL = -0.001, -2.0


def columns(num_rows: int, **changes: Tensor) -> EndColumns:
    """Rows that have drawn 4 tokens of 10, the last two near-certain, and stop at ids 7 and 9."""
    return replace(
        EndColumns(
            is_live_B=torch.ones(num_rows, dtype=torch.int64),
            num_tokens_B=torch.full((num_rows,), 4),
            max_tokens_B=torch.full((num_rows,), 10),
            num_certain_B=torch.full((num_rows,), 2, dtype=torch.int32),
            certain_limits_B=torch.full((num_rows,), 5, dtype=torch.int32),
            certain_logprobs_B=torch.full((num_rows,), -0.01),
            stop_ids_BK=torch.tensor([[7, 9, -1]]).repeat(num_rows, 1),
            reasons_B=torch.full((num_rows,), 200, dtype=torch.uint8),
            last_ids_B=torch.full((num_rows,), 3),
            positions_B=torch.full((num_rows,), 11),
        ),
        **changes,
    )


def tokens(ids: list[int], raw_logprobs: list[float]) -> SampledTokens:
    return SampledTokens(
        ids_B=torch.tensor(ids),
        logprobs_B=torch.zeros(len(ids)),  # what a filter or a temperature makes certain does not count
        raw_logprobs_B=torch.tensor(raw_logprobs),
    )


def apply(backend: Backend, drawn: SampledTokens, state: EndColumns) -> None:
    with using_backend(backend):
        apply_end_rules(drawn, state)


def copied(state: EndColumns) -> EndColumns:
    return EndColumns(**{field.name: getattr(state, field.name).clone() for field in fields(state)})


def changed(before: EndColumns, after: EndColumns) -> set[str]:
    names = [field.name for field in fields(before)]
    return {name for name in names if not torch.equal(getattr(before, name), getattr(after, name))}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_live_row_counts_its_token(backend: Backend) -> None:
    state = columns(2)
    before = copied(state)
    apply(backend, tokens([5, 6], [CERTAIN, DOUBTFUL]), state)
    assert state.last_ids_B.tolist() == [5, 6]
    assert state.num_tokens_B.tolist() == [5, 5] and state.positions_B.tolist() == [12, 12]
    assert state.num_certain_B.tolist() == [3, 0]
    assert state.reasons_B.tolist() == [0, 0] and state.is_live_B.tolist() == [1, 1]
    assert changed(before, state) == {
        *("last_ids_B", "num_tokens_B", "positions_B", "num_certain_B", "reasons_B"),
    }


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_that_is_not_live_only_loses_its_reason(backend: Backend) -> None:
    state = columns(
        3,
        is_live_B=torch.tensor([0, 1, 0]),
        num_tokens_B=torch.tensor([10, 4, 30]),
        max_tokens_B=torch.full((3,), 10),
    )
    before = copied(state)
    apply(backend, tokens([7, 5, -1], [CERTAIN] * 3), state)
    assert state.reasons_B.tolist() == [0, 0, 0] and state.is_live_B.tolist() == [0, 1, 0]
    for name in ("num_tokens_B", "num_certain_B", "last_ids_B", "positions_B"):
        assert getattr(state, name)[[0, 2]].tolist() == getattr(before, name)[[0, 2]].tolist(), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_rule_ends_a_row_and_the_first_of_them_is_the_reason(backend: Backend) -> None:
    """Rows: stop; repetition; length; stop first; repetition before length; one below each; padding."""
    state = columns(
        7,
        num_certain_B=torch.tensor([2, 4, 0, 4, 4, 3, 0], dtype=torch.int32),
        num_tokens_B=torch.tensor([4, 4, 9, 9, 9, 8, 4]),
    )
    raw_logprobs = [DOUBTFUL, CERTAIN, DOUBTFUL, CERTAIN, CERTAIN, CERTAIN, DOUBTFUL]
    apply(backend, tokens([9, 5, 5, 7, 5, 5, 0], raw_logprobs), state)
    expected = [
        *(EndReason.STOP, EndReason.REPETITION, EndReason.LENGTH, EndReason.STOP, EndReason.REPETITION),
        *(EndReason.NONE, EndReason.NONE),
    ]
    assert state.reasons_B.tolist() == expected
    assert state.is_live_B.tolist() == [0, 0, 0, 0, 0, 1, 1]
    assert state.last_ids_B.tolist() == [9, 5, 5, 7, 5, 5, 0]  # the token that ends a row is still counted
    assert state.num_tokens_B.tolist() == [5, 5, 10, 10, 10, 9, 5]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_token_of_exactly_the_probability_is_not_near_certain(backend: Backend) -> None:
    border = torch.tensor(0.99).log()
    above = torch.nextafter(border, torch.tensor(0.0))
    state = columns(
        2, certain_logprobs_B=border.repeat(2), num_certain_B=torch.tensor([4, 4], dtype=torch.int32)
    )
    apply(backend, tokens([1, 1], [float(border), float(above)]), state)
    assert state.num_certain_B.tolist() == [0, 5]
    assert state.reasons_B.tolist() == [EndReason.NONE, EndReason.REPETITION]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_limit_of_zero_is_never_reached(backend: Backend) -> None:
    state = columns(1, certain_limits_B=torch.zeros(1, dtype=torch.int32))
    for _ in range(5):
        apply(backend, tokens([1], [CERTAIN]), state)
    assert state.num_certain_B.tolist() == [7] and state.is_live_B.tolist() == [1]
    apply(backend, tokens([1], [CERTAIN]), state)
    assert state.reasons_B.tolist() == [EndReason.LENGTH]


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_stop_ids_no_token_stops(backend: Backend) -> None:
    state = columns(1, stop_ids_BK=torch.zeros(1, 0, dtype=torch.int64))
    apply(backend, tokens([0], [DOUBTFUL]), state)
    assert state.reasons_B.tolist() == [EndReason.NONE]


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_random_rows_end_as_naive_says(backend: Backend) -> None:
    """More rows than one program has; several steps, so that ended rows are met again."""
    num_rows, reasons = 150, set()
    state = columns(
        num_rows,
        max_tokens_B=torch.randint(5, 12, (num_rows,)),
        num_certain_B=torch.randint(4, (num_rows,), dtype=torch.int32),
        certain_limits_B=torch.randint(6, (num_rows,), dtype=torch.int32),
        is_live_B=torch.randint(5, (num_rows,)).clamp(max=1),
        stop_ids_BK=torch.randint(-1, 40, (num_rows, 3)),
    )
    truth = copied(state)
    for _ in range(8):
        drawn = SampledTokens(
            ids_B=torch.randint(40, (num_rows,)),
            logprobs_B=torch.zeros(num_rows),
            raw_logprobs_B=-torch.rand(num_rows) * 0.02,
        )
        apply(backend, drawn, state)
        apply(Backend.NAIVE, drawn, truth)
        assert changed(truth, state) == set()
        reasons |= set(state.reasons_B.tolist())
    assert reasons == set(EndReason)


def test_no_rows_are_no_work() -> None:
    empty = SampledTokens(
        ids_B=torch.zeros(0, dtype=torch.int64), logprobs_B=torch.zeros(0), raw_logprobs_B=torch.zeros(0)
    )
    for backend in BACKENDS:
        apply(backend, empty, columns(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_live_B": torch.ones(2, 1, dtype=torch.int64)}, "is_live has shape"),
        ({"num_certain_B": torch.zeros(2, dtype=torch.int64)}, "num_certain is int64; allowed are int32"),
        ({"positions_B": torch.zeros(3, dtype=torch.int64)}, "positions has shape"),
        ({"stop_ids_BK": torch.zeros(3, 2, dtype=torch.int64)}, "stop_ids has shape"),
        ({"stop_ids_BK": torch.zeros(2, dtype=torch.int64)}, "stop_ids has shape"),
        ({"reasons_B": torch.zeros(2, device="meta", dtype=torch.uint8)}, "reasons are on meta"),
        ({"last_ids_B": torch.zeros(4, dtype=torch.int64)[::2]}, "last_ids must be contiguous"),
    ],
)
def test_columns_that_cannot_be_are_refused(changes: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply_end_rules(tokens([1, 2], [0.0, 0.0]), columns(2, **changes))
