"""Boards of 0 and 1: properties, wrong boards, and one solution by trying all."""

from __future__ import annotations

import itertools

import pytest

from forklight_reward.logic.marks import MARK_TASKS, blocks_of, is_balanced, lines_with
from services.reward.tests.logic.properties import Case, Spec, cases, check_all, check_wrong


def plain_rows(answer: str) -> list[str]:
    """Rows without harmless white space."""
    rows = ["".join(row.replace(",", " ").split()) for row in answer.replace("\n", ";").split(";")]
    return [row for row in rows if row]


@pytest.mark.parametrize("case", cases(MARK_TASKS), ids=str)
def test_task_keeps_its_properties_when_drawn(case: Case) -> None:
    right = plain_rows(case.solution)

    def still_right(spec: Spec, answer: str) -> bool:
        return plain_rows(answer) == right

    check_all(case, still_right)
    flipped = case.solution.translate(str.maketrans("01", "10"))
    turned = ";".join("".join(column) for column in zip(*right, strict=True))
    wrong = [
        flipped,
        "".join(right),
        ";".join(right[:-1]),
        case.solution.replace("1", "2"),
        case.solution.replace("0", "1"),
    ]
    check_wrong(
        case, [*wrong, "|".join(right), f"[{case.solution}]", *([] if turned == case.solution else [turned])]
    )
    assert case.task.verify(case.puzzle.spec, "\n".join(" ".join(row) for row in right))


@pytest.mark.parametrize("task", MARK_TASKS, ids=lambda task: task.name)
def test_small_boards_have_one_solution_by_trying_all_last_rows(task: object) -> None:
    case = next(case for case in cases(MARK_TASKS, seeds=(3,)) if case.task is task and case.level == 1)
    first, lines = case.solution[:4], ["".join(line) for line in itertools.product("01", repeat=4)]
    texts = (";".join((first, *rest)) for rest in itertools.product(lines, repeat=3))
    assert [text for text in texts if case.task.verify(case.puzzle.spec, text)] == [case.solution]


def test_lines_with_blocks_are_exactly_those_of_a_plain_filter() -> None:
    for blocks in ((), (3,), (1, 2), (2, 2, 1)):
        wanted = [line for line in itertools.product((0, 1), repeat=7) if blocks_of(line) == list(blocks)]
        assert sorted(lines_with(blocks, 7)) == sorted(tuple(1 << mark for mark in line) for line in wanted)


def test_is_balanced_refuses_three_in_a_row() -> None:
    assert is_balanced((0, 1, 1, 0)) and not is_balanced((0, 0, 0, 1, 1, 1)) and not is_balanced((0, 1, 0, 0))
