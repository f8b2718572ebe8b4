"""Number boards: properties, one solution each, and wrong boards by hand."""

from __future__ import annotations

import itertools

import pytest

from forklight_reward.logic.grids import GRID_TASKS, num_seen
from forklight_reward.logic.task import Spec
from services.reward.tests.logic.properties import Case, cases, check_all, check_wrong


def rows(answer: str) -> list[list[str]]:
    """A board as words."""
    return [row.replace(",", " ").split() for row in answer.replace("\n", ";").split(";") if row.strip()]


@pytest.mark.parametrize("case", cases(GRID_TASKS), ids=str)
def test_task_keeps_its_properties_when_drawn(case: Case) -> None:
    right = rows(case.solution)

    def still_right(spec: Spec, answer: str) -> bool:
        return [[word.lstrip("0") for word in row] for row in rows(answer)] == right

    check_all(case, still_right)
    swapped_rows = [right[1], right[0], *right[2:]]
    swapped_columns = [[row[1], row[0], *row[2:]] for row in right]
    repeated = [right[0]] * len(right)
    wrong = [
        ";".join(" ".join(row) for row in board)
        for board in (swapped_rows, swapped_columns, repeated, right[:-1])
    ]
    check_wrong(
        case, [*wrong, case.solution.replace("1", "0"), case.solution.replace(";", "|"), f"[{case.solution}]"]
    )
    assert case.task.verify(case.puzzle.spec, case.solution.replace(";", "\n").replace(" ", ", "))


@pytest.mark.parametrize("level", range(1, 6))
def test_sudoku_has_one_solution_by_plain_backtracking(level: int) -> None:
    spec = Case(GRID_TASKS[0], level, 7).puzzle.spec
    assert num_fillings([list(row) for row in spec["givens"]], spec["box_rows"], spec["box_columns"]) == 1  # type: ignore


def squares_of_four(above: tuple[tuple[str, ...], ...] = ()) -> list[tuple[tuple[str, ...], ...]]:
    """All latin squares below some rows."""
    if len(above) == 4:
        return [above]
    fitting = [
        row
        for row in itertools.permutations("1234")
        if all(symbol not in column for symbol, column in zip(row, zip(*above, strict=True), strict=False))
    ]
    return [square for row in fitting for square in squares_of_four((*above, row))]


@pytest.mark.parametrize(("task", "level"), [(1, 1), (1, 2), (2, 2), (2, 3)])
def test_boards_of_four_have_one_solution_among_all_latin_squares(task: int, level: int) -> None:
    squares = [";".join(" ".join(row) for row in rows) for rows in squares_of_four()]
    assert len(squares) == 576
    for seed in range(5):
        case = Case(GRID_TASKS[task], level, seed)
        assert [text for text in squares if case.task.verify(case.puzzle.spec, text)] == [case.solution]


def num_fillings(board: list[list[int]], box_rows: int, box_columns: int) -> int:
    """Counts to 2 without the solver under test."""
    size = len(board)
    best: tuple[int, int, list[int]] | None = None
    for row in range(size):
        for column in range(size):
            if board[row][column]:
                continue
            top, left = row - row % box_rows, column - column % box_columns
            used = {*board[row], *(line[column] for line in board)}
            used |= {
                value for line in board[top : top + box_rows] for value in line[left : left + box_columns]
            }
            free = [value for value in range(1, size + 1) if value not in used]
            if best is None or len(free) < len(best[2]):
                best = (row, column, free)
    if best is None:
        return 1
    total = 0
    for value in best[2]:
        board[best[0]][best[1]] = value
        total += num_fillings(board, box_rows, box_columns)
        if total > 1:
            break
    board[best[0]][best[1]] = 0
    return total


def test_num_seen_counts_what_rises() -> None:
    assert [num_seen(line) for line in ((1, 2, 3), (3, 2, 1), (2, 1, 3), (1,))] == [3, 1, 2, 1]
