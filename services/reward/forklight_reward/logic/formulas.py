"""Logic tasks about formulas: values, satisfying assignments, conclusions of syllogisms."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from forklight_reward.logic.fields import texts, wholes
from forklight_reward.logic.task import LogicTask, Puzzle, Spec
from forklight_reward.logic.vocabulary import number_of, split_commas

VARIABLES = "pqrstuv"
BINARY = ("and", "or", "xor", "implies", "iff")
MEANING = (
    "xor means exactly one of the two, (x implies y) is false only when x is true and y is false, "
    "and iff means that both are equal"
)


@dataclass(frozen=True, slots=True)
class Formula:
    """A variable (no parts), a negation (one part) or a connection of two."""

    sign: str
    parts: tuple[Formula, ...] = ()

    def __str__(self) -> str:
        """With all brackets."""
        if not self.parts:
            return self.sign
        first = str(self.parts[0])
        return f"not {first}" if len(self.parts) == 1 else f"({first} {self.sign} {self.parts[1]})"

    def value(self, given: Mapping[str, bool]) -> bool:
        """Under an assignment."""
        if not self.parts:
            return given[self.sign]
        first = self.parts[0].value(given)
        if self.sign == "not":
            return not first
        second = self.parts[1].value(given)
        match self.sign:
            case "and":
                return first and second
            case "or":
                return first or second
            case "xor":
                return first != second
            case "implies":
                return not first or second
        return first == second


def draw_formula(chance: random.Random, names: Sequence[str], num_leaves: int) -> Formula:
    """A formula in which `num_leaves` variables stand, half of its inner places negated."""
    if num_leaves == 1:
        made = Formula(chance.choice(names))
    else:
        left = chance.randrange(1, num_leaves)
        parts = draw_formula(chance, names, left), draw_formula(chance, names, num_leaves - left)
        made = Formula(chance.choice(BINARY), parts)
    return Formula("not", (made,)) if chance.random() < 0.3 else made


class BooleanExpressions:
    """Several nested expressions to be evaluated."""

    name = "boolean_expressions"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """6 to 10 expressions of 5 to 21 variables."""
        names = VARIABLES[: 2 + level]
        given = {name: chance.random() < 0.5 for name in names}
        wanted = [chance.random() < 0.5 for _ in range(5 + level)]
        formulas = [self._draw(chance, given, 1 + 4 * level, value) for value in wanted]
        values = ["true" if value else "false" for value in wanted]
        told = ", ".join(f"{name} is {str(value).lower()}" for name, value in given.items())
        lines = "\n".join(f"{place}. {formula}" for place, formula in enumerate(formulas, start=1))
        prompt = (
            f"Let {told}. Evaluate these expressions; {MEANING}; not applies to the variable or bracket "
            "right "
            f"after it.\n\n{lines}\n\nWrite true or false for each of the {len(formulas)} expressions, in "
            "order, "
            "separated by commas, inside \\boxed{}, like \\boxed{true, false}."
        )
        return Puzzle(prompt=prompt, spec={"values": values})

    def _draw(
        self, chance: random.Random, given: Mapping[str, bool], num_leaves: int, wanted: bool
    ) -> Formula:
        """One with the wanted value: without that more would be true than false."""
        while True:
            formula = draw_formula(chance, list(given), num_leaves)
            if formula.value(given) == wanted:
                return formula

    def solve(self, spec: Spec) -> str:
        """All values."""
        return ", ".join(texts(spec, "values"))

    def verify(self, spec: Spec, answer: str) -> bool:
        """All values."""
        return split_commas(answer) == texts(spec, "values")


NUM_COUNTED = 3
"""Formulas of one puzzle: the number for one alone is too easily guessed."""


def draw_counted(chance: random.Random, names: Sequence[str], num_leaves: int) -> tuple[Formula, int]:
    """A formula in which all variables stand, and how many assignments satisfy it: not none and not all."""
    while True:
        formula = draw_formula(chance, names, num_leaves)
        drawn = product((False, True), repeat=len(names))
        count = sum(formula.value(dict(zip(names, values, strict=True))) for values in drawn)
        written = str(formula).replace("(", " ").replace(")", " ").split()
        if set(names) <= set(written) and 0 < count < 2 ** len(names):
            return formula, count


class TruthTableFormula:
    """How many assignments satisfy each of three formulas."""

    name = "truth_table_formula"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """3 to 7 variables, all of which occur."""
        names = VARIABLES[: 2 + level]
        drawn = [draw_counted(chance, names, 2 * len(names) + level) for _ in range(NUM_COUNTED)]
        lines = "\n".join(f"{place}. {formula}" for place, (formula, _) in enumerate(drawn, start=1))
        prompt = (
            f"Consider these formulas over the variables {', '.join(names)}; {MEANING}; not applies to "
            f"the variable or bracket right after it.\n\n{lines}\n\nThere are {2 ** len(names)} ways to "
            "make each variable true or false. How many of them make formula 1 true, how many formula 2, and "
            f"so on? Write the {len(drawn)} numbers, in order, separated by commas, inside \\boxed{{}}, like "
            "\\boxed{3, 5, 1}."
        )
        return Puzzle(prompt=prompt, spec={"counts": [count for _, count in drawn]})

    def solve(self, spec: Spec) -> str:
        """The numbers."""
        return ", ".join(str(count) for count in wholes(spec, "counts"))

    def verify(self, spec: Spec, answer: str) -> bool:
        """All of them."""
        return [number_of(part) for part in split_commas(answer)] == wholes(spec, "counts")


Sentence = tuple[str, int, int]
"""A form of FORMS over two terms."""
FORMS = {
    "all": "All {0} are {1}.",
    "no": "No {0} are {1}.",
    "some": "Some {0} are {1}.",
    "some_not": "Some {0} are not {1}.",
}
DENIAL = {"all": "some_not", "some_not": "all", "no": "some", "some": "no"}
STARTS = (
    "blor",
    "crim",
    "dax",
    "fen",
    "glim",
    "hurn",
    "jav",
    "klop",
    "mip",
    "norl",
    "plun",
    "quin",
    "rav",
    "spim",
)
ENDS = ("ots", "ers", "ites", "oids", "ums", "acks")


def can_all_hold(sentences: Sequence[Sentence], num_terms: int) -> bool:
    """Whether a world exists in which all of them hold, over the kinds of things that may exist."""
    kinds = list(product((False, True), repeat=num_terms))
    for form, first, second in sentences:
        if form == "all":
            kinds = [kind for kind in kinds if not kind[first] or kind[second]]
        elif form == "no":
            kinds = [kind for kind in kinds if not (kind[first] and kind[second])]
    return all(
        any(kind[first] and kind[second] == (form == "some") for kind in kinds)
        for form, first, second in sentences
        if form in ("some", "some_not")
    )


def is_valid(premises: Sequence[Sentence], conclusion: Sentence, num_terms: int) -> bool:
    """Whether no world has all premises without the conclusion."""
    form, first, second = conclusion
    return not can_all_hold([*premises, (DENIAL[form], first, second)], num_terms)


def draw_argument(chance: random.Random, num_terms: int, wanted: bool) -> tuple[list[Sentence], Sentence]:
    """A chain of premises that can hold together, and a conclusion that follows from them, or does not."""
    while True:
        premises: list[Sentence] = []
        for first in range(num_terms - 1):
            pair = [first, first + 1]
            chance.shuffle(pair)
            forms = ["all", "all", "all", "no", "some", "some_not"]
            premises.append((chance.choice(forms), pair[0], pair[1]))
        ends = [0, num_terms - 1]
        chance.shuffle(ends)
        conclusion: Sentence = (chance.choice(list(FORMS)), ends[0], ends[1])
        if can_all_hold(premises, num_terms) and is_valid(premises, conclusion, num_terms) == wanted:
            chance.shuffle(premises)
            return premises, conclusion


class Syllogisms:
    """Several arguments at once: which of them are valid."""

    name = "syllogisms"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """6 to 10 arguments of 2 to 4 premises."""
        num_terms = 3 + level // 2
        nouns = [start + end for start in STARTS for end in ENDS]
        told, words = [], []
        for place in range(1, 6 + level):
            wanted = chance.random() < 0.5
            premises, conclusion = draw_argument(chance, num_terms, wanted)
            terms = chance.sample(nouns, num_terms)
            given = " ".join(FORMS[form].format(terms[one], terms[two]) for form, one, two in premises)
            so = FORMS[conclusion[0]].format(terms[conclusion[1]], terms[conclusion[2]])
            told.append(f"{place}. {given} Therefore: {so}")
            words.append("valid" if wanted else "invalid")
        arguments = "\n".join(told)
        prompt = (
            "An argument is valid when its conclusion is true in every world in which all of its "
            "premises are true. "
            "'All A are B' and 'No A are B' are true also when there are no A at all; 'Some A are B' "
            "says that at "
            f"least one A exists that is B.\n\n{arguments}\n\nWrite valid or invalid for each of the "
            f"{len(words)} "
            "arguments, in order, separated by commas, inside \\boxed{}, like \\boxed{valid, invalid}."
        )
        return Puzzle(prompt=prompt, spec={"words": words})

    def solve(self, spec: Spec) -> str:
        """A word an argument."""
        return ", ".join(texts(spec, "words"))

    def verify(self, spec: Spec, answer: str) -> bool:
        """All of them."""
        return split_commas(answer) == texts(spec, "words")


FORMULA_TASKS: tuple[LogicTask, ...] = (BooleanExpressions(), TruthTableFormula(), Syllogisms())
