"""Number puzzles: properties and wrong answers by hand."""

from __future__ import annotations

import re

import pytest

from forklight_reward.logic.columns import Columns
from forklight_reward.logic.numerals import NUMERAL_TASKS
from forklight_reward.logic.task import Spec
from services.reward.tests.logic.properties import Case, cases, check_all, check_wrong


def means_the_same(spec: Spec, answer: str) -> bool:
    """Numbers written with a sign or zeros in front, or letters in another order, are the same answer."""
    if "words" in spec:
        right = next(Columns(list(spec["words"]), {}).search()) if not spec["hints"] else None  # type: ignore[arg-type]
        parts = answer.replace(" ", "").split(",")
        pairs = sorted(part for part in parts if re.fullmatch("[A-Z]=[0-9]", part))
        return (
            right is not None
            and pairs == sorted(f"{k}={v}" for k, v in right.items())
            and len(pairs) == len(parts)
        )
    words = answer.split(",")
    right_numbers = spec["next"] if "next" in spec else [spec["value"]]
    if not all(re.fullmatch("[+-]?[0-9]{1,20}", word) for word in words):
        return False
    return [int(word) for word in words] == right_numbers


@pytest.mark.parametrize("case", cases(NUMERAL_TASKS, seeds=range(3)), ids=str)
def test_task_keeps_its_properties_when_drawn(case: Case) -> None:
    check_all(case, means_the_same)
    first, *rest = case.solution.split(",")
    wrong = [
        f"{case.solution},",
        f"the answer is {case.solution}",
        f"{case.solution}.0",
        ",".join([*rest, first, first]),
    ]
    if "words" in case.puzzle.spec:
        wrong += [
            case.solution.lower(),
            case.solution + ",Z=0,Z=1",
            ",".join(rest),
            case.solution.replace("=", ":"),
        ]
    check_wrong(case, wrong)


@pytest.mark.parametrize("level", range(1, 6))
def test_cryptarithm_has_one_solution_at_every_level(level: int) -> None:
    for seed in range(4):
        spec = Case(NUMERAL_TASKS[0], level, seed).puzzle.spec
        hints = {str(hint)[0]: int(str(hint)[2]) for hint in spec["hints"]}  # type: ignore[union-attr]
        assert len(list(Columns(list(spec["words"]), hints).search())) == 1  # type: ignore[arg-type]


def test_send_more_money_has_its_known_solution() -> None:
    found = list(Columns(["SEND", "MORE", "MONEY"], {}).search())
    assert found == [{"S": 9, "E": 5, "N": 6, "D": 7, "M": 1, "O": 0, "R": 8, "Y": 2}]
