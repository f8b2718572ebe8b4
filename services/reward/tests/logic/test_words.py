"""Words and sequences: properties, and answers found again from the prompt alone."""

from __future__ import annotations

import re
from itertools import permutations
from typing import cast

import pytest

from forklight_reward.logic.rewriting import REWRITING_TASKS, rewrite
from forklight_reward.logic.task import LEVELS, Spec
from forklight_reward.logic.words import WORD_TASKS, has_one_reading
from services.reward.tests.logic.properties import Case, cases, check_all, check_wrong

TASKS = {task.name: task for task in (*WORD_TASKS, *REWRITING_TASKS)}


def obeys(spec: Spec, answer: str) -> bool:
    """The rules of a code, apart from the task's own code."""
    code = answer.strip()
    if sorted(code) != sorted(cast("str", spec["solution"])):
        return False
    at = {sign: place for place, sign in enumerate(code, start=1)}
    kept = []
    for kind, first, second, *gap in cast("list[list[str]]", spec["rules"]):
        if kind == "place":
            kept.append(code[int(second) - 1] == first)
            continue
        step = at[second] - at[first]
        steps = {
            "before": step > 0,
            "next": step == 1,
            "beside": step in (-1, 1),
            "apart": step not in (-1, 1),
        }
        kept.append(abs(step) == int(gap[0]) + 1 if kind == "between" else steps[kind])
    return all(kept)


@pytest.mark.parametrize("case", cases(TASKS.values(), seeds=(0,)), ids=str)
def test_task_keeps_its_properties_when_drawn(case: Case) -> None:
    check_all(case, obeys if case.task.name == "anagram_of_code" else None)
    check_wrong(
        case,
        [case.solution[::-1] + "z", f'"{case.solution}"', f"\\text{{{case.solution}}}", case.solution + "."],
    )


@pytest.mark.parametrize("seed", range(4))
def test_any_order_that_obeys_all_rules_is_right(seed: int) -> None:
    case = Case(TASKS["anagram_of_code"], 1, seed)
    orders = ["".join(signs) for signs in permutations(case.solution)]
    right = [order for order in orders if case.task.verify(case.puzzle.spec, order)]
    assert right == [order for order in orders if obeys(case.puzzle.spec, order)]
    assert 1 <= len(right) < len(orders) / 4


@pytest.mark.parametrize("level", LEVELS)
def test_caesar_message_follows_from_the_prompt(level: int) -> None:
    case = Case(TASKS["caesar_cipher"], level, 3)
    prompt = case.puzzle.prompt
    found = re.search(r"Enciphered message: (.*)\n", prompt)
    assert found is not None
    secret = found[1].split()
    shift = re.search(r"moved forward by (\d+)", prompt)
    known = re.search(r"the first word of the message is '(\w+)'", prompt)
    places = int(shift[1]) if shift else (ord(secret[0][0]) - ord(known[1][0])) % 26 if known else -1
    grows = re.search(r"later word by (\d+) places more", prompt)
    step = int(grows[1]) if grows else 0
    assert (step > 0) == (level >= 3)
    plain = [
        "".join(chr((ord(sign) - 97 - places - step * number) % 26 + 97) for sign in word)
        for number, word in enumerate(secret)
    ]
    assert case.task.verify(case.puzzle.spec, " ".join(plain))


@pytest.mark.parametrize("level", LEVELS)
def test_letters_brackets_and_strings_follow_from_the_prompt(level: int) -> None:
    counting = Case(TASKS["letter_counting"], level, 3)
    text = counting.puzzle.prompt.split("\n\n")[1].split()
    skipped = re.search(r"begin with '(\w)'", counting.puzzle.prompt)
    joined = "".join(word for word in text if not skipped or not word.startswith(skipped[1]))
    letters = re.search(r"occur in it: ([a-z, ]+)\?", counting.puzzle.prompt)
    assert letters is not None
    numbers = ",".join(str(joined.count(letter)) for letter in letters[1].split(", "))
    assert counting.task.verify(counting.puzzle.spec, numbers)

    brackets = Case(TASKS["dyck_language"], level, 3)
    said = brackets.puzzle.prompt.split("\n\n")[1].replace(" ", "")
    whole = said + brackets.solution
    while whole != (whole := re.sub(r"\(\)|\[\]|<>|\+-", "", whole)):
        pass
    assert whole == ""

    sorting = Case(TASKS["word_sorting"], level, 3)
    alphabet = re.search(r"this order: ([a-z ]+)\n", sorting.puzzle.prompt)
    assert alphabet is not None
    table = str.maketrans(alphabet[1].replace(" ", ""), "abcdefghijklmnopqrstuvwxyz")
    words = sorting.puzzle.prompt.split("\n\n")[2].split()
    words.sort(key=lambda word: (word[::-1] if level >= 4 else word).translate(table))
    assert " ".join(words) == sorting.solution


def test_strings_are_rewritten_by_the_first_rule_at_the_leftmost_place() -> None:
    assert rewrite("abab", [("ba", "c"), ("ab", "d")], 9) == ("acb", 1)
    assert rewrite("aaab", [("ab", "b")], 2) == ("ab", 2)
    assert rewrite("abcabc", [("bc", "d"), ("ad", "b")], 9) == ("bb", 4)


def test_examples_leave_one_reading_or_are_refused() -> None:
    assert not has_one_reading(["xy", "zw"], ["ab", "cd"], "x")
    assert has_one_reading(["xyy", "zw"], ["abb", "cd"], "xy")
    assert not has_one_reading(["xx"], ["ab"], "x"), "no key at all is no reading"
