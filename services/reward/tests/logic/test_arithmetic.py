"""Expression puzzles: properties, wrong answers by hand, and the evaluator."""

from __future__ import annotations

from fractions import Fraction

import pytest

from forklight_reward.logic.arithmetic import ARITHMETIC_TASKS
from forklight_reward.logic.expressions import evaluate, tokenize
from forklight_reward.logic.task import Spec
from services.reward.tests.logic.properties import Case, cases, check_all, check_wrong

SIGNS = "+-*/()"


def means_the_same(spec: Spec, answer: str) -> bool:
    """Python's own parser on what has only digits and signs: another reader than ours."""
    if not set(answer) <= set("0123456789+-*/() "):
        return False
    spaced = "".join(f" {symbol} " if symbol in SIGNS else symbol for symbol in answer)
    words = spaced.split()
    numbers = sorted(int(word) for word in words if word.isdigit())
    if "digits" in spec:
        digits = "".join(answer.split())
        for sign in SIGNS:
            digits = digits.replace(sign, "")
        allowed = digits == spec["digits"] and not set(answer) & set("()/")
        allowed = allowed and (spec["may_join"] is True or len(numbers) == len(digits))
    else:
        listed = sorted(spec["numbers"])  # type: ignore[type-var,arg-type]
        left = list(listed)
        allowed = all(number in left and (left.remove(number) is None) for number in numbers)  # type: ignore[func-returns-value]
        allowed = allowed and ("target" in spec or not left)
    return bool(allowed) and python_value(words) == spec.get("target", 24)


def python_value(words: list[str]) -> Fraction | None:
    """Our own test's text, checked to hold only numbers and signs, evaluated by Python."""
    source = " ".join(f"F({int(word)})" if word.isdigit() else word for word in words)
    try:
        return Fraction(eval(source, {"__builtins__": {}, "F": Fraction}))
    except (SyntaxError, ZeroDivisionError, TypeError):
        return None


@pytest.mark.parametrize("case", cases(ARITHMETIC_TASKS), ids=str)
def test_task_keeps_its_properties_when_drawn(case: Case) -> None:
    check_all(case, means_the_same)
    check_wrong(
        case,
        (
            f"{case.solution}+0",
            f"-({case.solution})",
            f"{case.solution}={case.puzzle.spec.get('target', 24)}",
            f"({case.solution}",
            f"{case.solution})",
            str(case.puzzle.spec.get("target", 24)),
        ),
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1+2*3", Fraction(7)),
        ("(1+2)*3", Fraction(9)),
        ("8/(3-8/3)", Fraction(24)),
        ("2-3-4", Fraction(-5)),
        ("8/4/2", Fraction(1)),
        ("1/0", None),
        ("1/(2-2)", None),
        ("()", None),
        ("1+", None),
        ("+1", None),
        ("(1", None),
        ("1)", None),
        ("(1)(2)", None),
    ],
)
def test_evaluate_is_exact_or_nothing(text: str, value: Fraction | None) -> None:
    assert evaluate(tokenize(text) or []) == value


@pytest.mark.parametrize(
    "text", ["1 2", "1,2", "2**3 x", "1.5", "1e5", "9" * 21, "1+" * 150 + "1", "\u0661+1"]
)
def test_tokenize_refuses_what_is_no_expression(text: str) -> None:
    assert tokenize(text) is None
