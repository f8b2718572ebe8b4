"""Logic tasks about who tells the truth and who lives where."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import product

from forklight_reward.logic.fields import text_rows, texts
from forklight_reward.logic.houses import Clue, draw_clues, tell
from forklight_reward.logic.reading import plain
from forklight_reward.logic.task import LogicTask, Puzzle, Spec
from forklight_reward.logic.vocabulary import PEOPLE, split_commas

Kinds = Sequence[bool]
"""Of every person: whether always truthful."""

CLAIMS: Mapping[str, Callable[[Kinds, int, int], bool]] = {
    "{0} is a knight": lambda kinds, first, _: kinds[first],
    "{0} is a knave": lambda kinds, first, _: not kinds[first],
    "{0} and {1} are both knights": lambda kinds, first, second: kinds[first] and kinds[second],
    "{0} and {1} are both knaves": lambda kinds, first, second: not (kinds[first] or kinds[second]),
    "at least one of {0} and {1} is a knave": lambda kinds, first, second: (
        not (kinds[first] and kinds[second])
    ),
    "{0} and {1} are of the same kind": lambda kinds, first, second: kinds[first] == kinds[second],
    "exactly one of {0} and {1} is a knight": lambda kinds, first, second: kinds[first] != kinds[second],
    "if {0} is a knight, then {1} is a knight": lambda kinds, first, second: (
        not kinds[first] or kinds[second]
    ),
    "the number of knights among us is even": lambda kinds, *_: sum(kinds) % 2 == 0,
}
Claim = tuple[str, int, int]


def draw_claim(chance: random.Random, kinds: Kinds, speaker: int) -> Claim:
    """What this speaker can say: true of a knight, false of a knave."""
    others = [person for person in range(len(kinds)) if person != speaker]
    while True:
        form = chance.choice(list(CLAIMS))
        first, second = chance.sample(others, 2)
        if CLAIMS[form](kinds, first, second) == kinds[speaker]:
            return form, first, second


def count_worlds(claims: Sequence[Claim]) -> int:
    """How many assignments of kinds agree with what everybody said."""
    return sum(
        all(
            CLAIMS[form](kinds, first, second) == kind
            for kind, (form, first, second) in zip(kinds, claims, strict=True)
        )
        for kinds in product((False, True), repeat=len(claims))
    )


def start_large(sentence: str) -> str:
    """With a capital letter."""
    return sentence[0].upper() + sentence[1:]


class KnightsAndKnaves:
    """Knights always tell the truth, knaves never; exactly one assignment fits."""

    name = "knights_and_knaves"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """5 to 9 people who say one sentence each."""
        people = chance.sample(PEOPLE, 4 + level)
        while True:
            kinds = [chance.random() < 0.5 for _ in people]
            claims = [draw_claim(chance, kinds, speaker) for speaker in range(len(people))]
            if len(set(claims)) == len(claims) and count_worlds(claims) == 1:
                break
        said = "\n".join(
            f'{name} says: "{start_large(form.format(people[first], people[second]))}."'
            for name, (form, first, second) in zip(people, claims, strict=True)
        )
        prompt = (
            "On an island everybody is either a knight, who only says what is true, or a knave, who only "
            "says "
            "what is false. A sentence 'if ..., then ...' is false only when its first half is true and "
            "its second "
            f"half is false. You meet {', '.join(people)}; 'us' means these {len(people)} people.\n{said}\n\n"
            f"Who is what? Write one word, knight or knave, for each of {', '.join(people)}, in this order, "
            "separated by commas, inside \\boxed{}."
        )
        return Puzzle(prompt=prompt, spec={"kinds": ["knight" if kind else "knave" for kind in kinds]})

    def solve(self, spec: Spec) -> str:
        """Everybody's kind."""
        return ", ".join(texts(spec, "kinds"))

    def verify(self, spec: Spec, answer: str) -> bool:
        """All of them."""
        return split_commas(answer) == texts(spec, "kinds")


class WebOfLies:
    """A chain of people who speak of each other; everybody follows from the first."""

    name = "web_of_lies"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Told out of order; longer and with more sentences about two people from level 3."""
        people = chance.sample(PEOPLE, 4 + 3 * level)
        honest = {people[0]: chance.random() < 0.5}
        said = [f"{people[0]} {'tells the truth' if honest[people[0]] else 'lies'}."]
        for place, name in enumerate(people[1:], start=1):
            honest[name] = chance.random() < 0.5
            about = people[max(0, place - 3) : place]
            if level >= 3 and len(about) > 1 and chance.random() < 0.6:
                first, second = chance.sample(about, 2)
                differ = (honest[first] != honest[second]) == honest[name]
                how_many = "exactly one" if differ else "both or neither"
                claim = f"{how_many} of {first} and {second} tells the truth"
            else:
                first = chance.choice(about)
                claim = f"{first} {'tells the truth' if honest[first] == honest[name] else 'lies'}"
            said.append(f"{name} says that {claim}.")
        chance.shuffle(said)
        asked = chance.sample(people[2:], min(4 + level, len(people) - 2))
        prompt = (
            "Each of these people either always tells the truth or always lies.\n" + "\n".join(said) + "\n\n"
            f"What about {', '.join(asked)}? Write truth or lies for each of them, in this order, "
            "separated by "
            "commas, inside \\boxed{}, like \\boxed{truth, lies}."
        )
        return Puzzle(prompt=prompt, spec={"words": ["truth" if honest[name] else "lies" for name in asked]})

    def solve(self, spec: Spec) -> str:
        """A word for everybody asked for."""
        return ", ".join(texts(spec, "words"))

    def verify(self, spec: Spec, answer: str) -> bool:
        """All of them."""
        return split_commas(answer) == texts(spec, "words")


CATEGORIES = (
    ("name", ("Ada", "Bruno", "Clara", "David", "Elena")),
    ("drink", ("tea", "milk", "juice", "water", "coffee")),
    ("pet", ("cat", "dog", "bird", "horse", "snail")),
    ("colour", ("red", "green", "blue", "white", "yellow")),
    ("sport", ("tennis", "chess", "golf", "rowing", "judo")),
)
SIZES = ((3, 3), (4, 3), (4, 4), (5, 4), (5, 5))
"""Houses and categories of every level."""


class ZebraPuzzle:
    """Houses in a row, and clues that leave one possibility."""

    name = "zebra_puzzle"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """No clue can be left out."""
        num_houses, num_categories = SIZES[level - 1]
        used = CATEGORIES[:num_categories]
        rows = [chance.sample(values[:num_houses], num_houses) for _, values in used]
        clues: list[Clue] = draw_clues(chance, rows)
        told = "\n".join(f"{place}. {tell(clue)}" for place, clue in enumerate(clues, start=1))
        lists = "\n".join(f"- {name}: {', '.join(values[:num_houses])}" for name, values in used)
        names = ", ".join(name for name, _ in used)
        prompt = (
            f"{num_houses} houses stand in a row, numbered 1 to {num_houses} from left to right. Each has "
            "one value "
            f"of every kind below, and no two houses share a value:\n{lists}\n\nClues:\n{told}\n\n"
            f"Find out what belongs to which house. Write {num_categories} lists inside \\boxed{{}}, in "
            "the order "
            f"{names}, separated by semicolons; each list has the values of the houses 1 to {num_houses}, "
            "in order, "
            "separated by commas, like \\boxed{Ada, Bruno, ...; tea, milk, ...; ...}."
        )
        return Puzzle(prompt=prompt, spec={"rows": rows})

    def solve(self, spec: Spec) -> str:
        """All lists."""
        return "; ".join(", ".join(row) for row in text_rows(spec, "rows"))

    def verify(self, spec: Spec, answer: str) -> bool:
        """All lists."""
        rows = (plain(answer) or "").split(";")
        return [split_commas(row) for row in rows] == text_rows(spec, "rows")


DEDUCTION_TASKS: tuple[LogicTask, ...] = (KnightsAndKnaves(), WebOfLies(), ZebraPuzzle())
