"""Queens and stars: properties and wrong placements by hand."""

from __future__ import annotations

import itertools

import pytest

from forklight_reward.logic.placements import PLACEMENT_TASKS, Queens
from forklight_reward.logic.task import Spec
from services.reward.tests.logic.properties import Case, cases, check_all, check_wrong


def obeys(spec: Spec, answer: str) -> bool:
    """Pair by pair, apart from the tasks' own code."""
    words = answer.replace(",", " ").split()
    if not all(word.lstrip("+").isdigit() and len(word) < 20 for word in words):
        return False
    size = len(list(spec["fixed"]))  # type: ignore[arg-type]
    stars = [(row, int(word) - 1) for row, word in enumerate(words)]
    if len(stars) != size or any(not 0 <= column < size for _, column in stars):
        return False
    if any(given not in (-1, column) for (_, column), given in zip(stars, spec["fixed"], strict=True)):  # type: ignore[arg-type]
        return False
    for (r, c), (s, d) in itertools.combinations(stars, 2):
        if c == d or ("regions" not in spec and abs(r - s) == abs(c - d)):
            return False
        if "regions" in spec and (
            max(abs(r - s), abs(c - d)) < 2 or spec["regions"][r][c] == spec["regions"][s][d]
        ):  # type: ignore
            return False
    return True


@pytest.mark.parametrize("case", cases(PLACEMENT_TASKS, seeds=range(3)), ids=str)
def test_task_keeps_its_properties_when_drawn(case: Case) -> None:
    check_all(case, obeys)
    columns = case.solution.split(",")
    size = len(columns)
    wrong = [
        ",".join(map(str, range(1, size + 1))),
        ",".join(columns[:-1]),
        ",".join(["1"] * size),
        ";".join(columns),
    ]
    check_wrong(case, [*wrong, ",".join(str(int(column) - 1) for column in columns), f"[{case.solution}]"])


@pytest.mark.parametrize("level", range(1, 4))
def test_star_battle_has_one_solution_by_trying_all(level: int) -> None:
    case = Case(PLACEMENT_TASKS[1], level, 11)
    size = len(case.solution.split(","))
    orders = (",".join(map(str, order)) for order in itertools.permutations(range(1, size + 1)))
    assert [order for order in orders if obeys(case.puzzle.spec, order)] == [case.solution]


def test_queens_counts_the_known_numbers() -> None:
    assert [len(list(Queens([-1] * size).search())) for size in (4, 5, 6, 8)] == [2, 10, 4, 92]
