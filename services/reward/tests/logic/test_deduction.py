"""Who lies, who lives where, what follows: properties, and answers found again by trying everything."""

from __future__ import annotations

import re
from itertools import permutations, product

import pytest

from forklight_reward.logic.deduction import DEDUCTION_TASKS
from forklight_reward.logic.formulas import FORMS, FORMULA_TASKS, Formula, Sentence, is_valid
from forklight_reward.logic.task import LEVELS
from services.reward.tests.logic.properties import Case, cases, check_all, check_wrong

TASKS = {task.name: task for task in (*DEDUCTION_TASKS, *FORMULA_TASKS)}


@pytest.mark.parametrize("case", cases(TASKS.values(), seeds=(0,)), ids=str)
def test_task_keeps_its_properties_when_drawn(case: Case) -> None:
    check_all(case)
    check_wrong(
        case, [case.solution.upper() + "X", f"{case.solution},", f"({case.solution})", f"{case.solution} ?"]
    )


def says(sentence: str, honest: dict[str, bool]) -> bool:
    """The meaning of an islander's sentence, read from the text."""
    names = [name for name in re.findall(r"[A-Z][a-z]+", sentence) if name in honest]
    kinds = [honest[name] for name in names]
    meanings = {
        "is a knight.": lambda: kinds[0],
        "is a knave.": lambda: not kinds[0],
        "are both knights.": lambda: all(kinds),
        "are both knaves.": lambda: not any(kinds),
        "are of the same kind.": lambda: len(set(kinds)) == 1,
        "among us is even.": lambda: list(honest.values()).count(True) % 2 == 0,
    }
    if sentence.startswith("At least one"):
        return not all(kinds)
    if sentence.startswith("Exactly one"):
        return kinds.count(True) == 1
    if sentence.startswith("If "):
        return kinds[1] or not kinds[0]
    return next(meaning() for end, meaning in meanings.items() if sentence.endswith(end))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("seed", range(3))
def test_exactly_one_island_agrees_with_what_is_said(level: int, seed: int) -> None:
    case = Case(TASKS["knights_and_knaves"], level, seed)
    said = re.findall(r'^(\w+) says: "(.*)"$', case.puzzle.prompt, flags=re.M)
    names = [name for name, _ in said]
    worlds = [dict(zip(names, kinds, strict=True)) for kinds in product((True, False), repeat=len(names))]
    right = [world for world in worlds if all(says(text, world) == world[name] for name, text in said)]
    assert len(right) == 1
    assert ", ".join("knight" if right[0][name] else "knave" for name in names) == case.solution


@pytest.mark.parametrize("level", LEVELS)
def test_everybody_in_a_web_follows_from_the_text(level: int) -> None:
    case = Case(TASKS["web_of_lies"], level, 2)
    honest: dict[str, bool] = {}
    for name, how in re.findall(r"^(\w+) (tells the truth|lies)\.$", case.puzzle.prompt, flags=re.M):
        honest[name] = how != "lies"
    one = re.findall(r"^(\w+) says that (\w+) (tells the truth|lies)\.$", case.puzzle.prompt, flags=re.M)
    two = re.findall(
        r"^(\w+) says that (exactly one|both or neither) of (\w+) and (\w+) tells",
        case.puzzle.prompt,
        flags=re.M,
    )
    for _ in range(20):
        honest |= {name: honest[of] == (how != "lies") for name, of, how in one if of in honest}
        honest |= {
            name: (honest[a] != honest[b]) == (how == "exactly one")
            for name, how, a, b in two
            if a in honest and b in honest
        }
    assert len(honest) == 4 + 3 * level
    asked = re.search(r"What about ([\w, ]+)\?", case.puzzle.prompt)
    assert asked is not None
    assert ", ".join("truth" if honest[name] else "lies" for name in asked[1].split(", ")) == case.solution


MEANINGS = {
    r"house with (\w+) is also the house with (\w+)": lambda a, b: a == b,
    r"house with (\w+) is not the house with (\w+)": lambda a, b: a != b,
    r"house with (\w+) is immediately to the left of the house with (\w+)": lambda a, b: a + 1 == b,
    r"house with (\w+) is next to the house with (\w+)": lambda a, b: abs(a - b) == 1,
    r"house with (\w+) is somewhere to the left of the house with (\w+)": lambda a, b: a < b,
    r"house with (\w+) is house (\d)": lambda a, b: a == b,
    r"house with (\w+) is not house (\d)": lambda a, b: a != b,
}


@pytest.mark.parametrize(("level", "seed"), [(1, 0), (1, 1), (1, 2), (2, 0)])
def test_clues_leave_one_street_by_trying_all(level: int, seed: int) -> None:
    case = Case(TASKS["zebra_puzzle"], level, seed)
    prompt = case.puzzle.prompt
    lists = [row.split(", ") for row in re.findall(r"^- \w+: (.*)$", prompt, flags=re.M)]
    clues = [
        (meaning, found[1], found[2])
        for line in re.findall(r"^\d+\. The (.*)\.$", prompt, flags=re.M)
        for form, meaning in MEANINGS.items()
        if (found := re.fullmatch(form, line))
    ]
    assert len(clues) == len(re.findall(r"^\d+\. ", prompt, flags=re.M))
    right = []
    for rows in product(*(permutations(values) for values in lists)):
        at = {value: house for row in rows for house, value in enumerate(row, start=1)}
        at |= {str(house): house for house in range(1, 6)}
        if all(meaning(at[one], at[two]) for meaning, one, two in clues):
            right.append("; ".join(", ".join(row) for row in rows))
    assert right == [case.solution]


def test_formulas_have_their_values_when_written_by_hand() -> None:
    p, q = Formula("p"), Formula("q")
    rows = {"and": "0001", "or": "0111", "xor": "0110", "implies": "1101", "iff": "1001"}
    for sign, row in rows.items():
        values = [Formula(sign, (p, q)).value({"p": a, "q": b}) for a, b in product((False, True), repeat=2)]
        assert "".join(str(int(value)) for value in values) == row
    assert str(Formula("not", (Formula("or", (p, q)),))) == "not (p or q)"
    assert Formula("not", (p,)).value({"p": False})


def holds_in(sentence: Sentence, things: tuple[tuple[bool, ...], ...]) -> bool:
    """Over the things of one small world."""
    form, first, second = sentence
    both = any(thing[first] and thing[second] for thing in things)
    only = any(thing[first] and not thing[second] for thing in things)
    return {"all": not only, "no": not both, "some": both, "some_not": only}[form]


def test_validity_agrees_with_all_small_worlds() -> None:
    kinds = list(product((False, True), repeat=3))
    worlds = [
        tuple(kind for kind, is_there in zip(kinds, there, strict=True) if is_there)
        for there in product((False, True), repeat=len(kinds))
    ]
    num_valid = 0
    for one, two, end in product(FORMS, repeat=3):
        premises, conclusion = [(one, 0, 1), (two, 1, 2)], (end, 0, 2)
        kept = [world for world in worlds if all(holds_in(premise, world) for premise in premises)]
        valid = all(holds_in(conclusion, world) for world in kept)
        assert is_valid(premises, conclusion, 3) == valid, (premises, conclusion)
        num_valid += valid
    assert num_valid == 4, "Barbara, Celarent, Darii and Ferio"
