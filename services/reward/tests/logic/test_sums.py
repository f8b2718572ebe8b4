"""Boards with sums: properties and wrong boards by hand."""

from __future__ import annotations

import itertools
import random

import pytest

from forklight_reward.logic.sums import SUM_TASKS, draw_magic, runs_of
from forklight_reward.logic.task import Spec
from services.reward.tests.logic.properties import Case, cases, check_all, check_wrong

ORDERS = (3, 4, 5)


def board_of(answer: str) -> list[list[int]] | None:
    """Numbers, or None for other text."""
    rows = [row.replace(",", " ").split() for row in answer.replace("\n", ";").split(";") if row.strip()]
    if not all(word.isdigit() and len(word) < 20 for row in rows for word in row):
        return None
    return [[int(word) for word in row] for row in rows]


def is_magic(spec: Spec, board: list[list[int]]) -> bool:
    """Sums line by line, apart from the task's own code."""
    size = len(board)
    if sorted(itertools.chain.from_iterable(board)) != list(range(1, size * size + 1)) or {
        len(row) for row in board
    } != {size}:
        return False
    sums = {sum(row) for row in board} | {sum(column) for column in zip(*board, strict=True)}
    sums |= {sum(board[i][i] for i in range(size)), sum(board[i][size - 1 - i] for i in range(size))}
    kept = all(
        not g or g == v
        for gs, vs in zip(spec["givens"], board, strict=True)
        for g, v in zip(gs, vs, strict=True)
    )  # type: ignore
    return len(sums) == 1 and kept


@pytest.mark.parametrize("case", cases(SUM_TASKS), ids=str)
def test_task_keeps_its_properties_when_drawn(case: Case) -> None:
    right = board_of(case.solution)
    assert right is not None

    def still_right(spec: Spec, answer: str) -> bool:
        board = board_of(answer)
        return board is not None and (board == right or ("size" in spec and is_magic(spec, board)))

    check_all(case, still_right)
    wrong = [right[::-1][:-1], [[value + 1 for value in row] for row in right], [right[0]] * len(right)]
    check_wrong(case, [";".join(" ".join(map(str, row)) for row in board) for board in wrong])
    check_wrong(case, [case.solution.replace(";", "|"), case.solution.replace(" ", "+"), f"-{case.solution}"])


@pytest.mark.parametrize("size", ORDERS)
def test_magic_squares_are_magic_when_drawn(size: int) -> None:
    drawn = {tuple(draw_magic(random.Random(seed), size)) for seed in range(20)}
    assert len(drawn) > 3
    for cells in drawn:
        board = [list(cells[start : start + size]) for start in range(0, size * size, size)]
        assert is_magic({"givens": board}, board)


def test_kakuro_has_one_solution_by_trying_all() -> None:
    case = Case(SUM_TASKS[0], 1, 5)
    sums = [total for (total,) in case.puzzle.spec["sums"]]  # type: ignore[union-attr,misc]
    triples = list(itertools.product(range(1, 10), repeat=3))
    above, below = ([row for row in triples if sum(row) == total] for total in sums[:2])
    texts = [";".join(" ".join(map(str, row)) for row in board) for board in itertools.product(above, below)]
    right = [text for text in texts if case.task.verify(case.puzzle.spec, text)]
    assert right == [case.solution]


def test_runs_are_cut_by_black_cells() -> None:
    assert runs_of([[1, 1, 0], [1, 1, 1], [0, 1, 1]]) == [
        [0, 1],
        [3, 4, 5],
        [7, 8],
        [0, 3],
        [1, 4, 7],
        [5, 8],
    ]
