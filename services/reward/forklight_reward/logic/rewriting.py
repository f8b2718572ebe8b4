"""Logic tasks over sequences: words in a strange alphabet, brackets to close, strings to rewrite."""

from __future__ import annotations

import random
from collections.abc import Sequence

from forklight_reward.logic.fields import text, texts
from forklight_reward.logic.task import LogicTask, Puzzle, Spec
from forklight_reward.logic.vocabulary import LETTERS, pack, squeeze

CLOSING = {"(": ")", "[": "]", "<": ">", "+": "-"}
LETTERS_OF_RULES = "abcd"


class WordSorting:
    """Words to be sorted by an alphabet of another order; from level 4 read from their ends."""

    name = "word_sorting"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Few different letters, so that words agree in their first ones."""
        alphabet = "".join(chance.sample(LETTERS, 26))
        used = chance.sample(LETTERS, 7 - level)
        words: list[str] = []
        while len(words) < 3 * level + 2:
            word = "".join(chance.choice(used) for _ in range(chance.randrange(3, 6 + level // 2)))
            if word not in words:
                words.append(word)
        turned = level >= 4
        ordered = sorted(
            words, key=lambda word: [alphabet.index(sign) for sign in (word[::-1] if turned else word)]
        )
        how = "from left to right"
        if turned:
            how = "from right to left (last letter first, then the one before it, and so on)"
        prompt = (
            f"In a strange language the alphabet has this order: {' '.join(alphabet)}\n\nSort these words "
            "by that "
            f"alphabet, comparing them letter by letter {how}; a word that another one merely continues "
            "comes "
            f"before it:\n\n{' '.join(words)}\n\nWrite all words in their order, separated by single spaces, "
            "inside \\boxed{}."
        )
        return Puzzle(prompt=prompt, spec={"ordered": ordered})

    def solve(self, spec: Spec) -> str:
        """The order."""
        return " ".join(texts(spec, "ordered"))

    def verify(self, spec: Spec, answer: str) -> bool:
        """All words in order."""
        return squeeze(answer).split() == texts(spec, "ordered")


class DyckLanguage:
    """Brackets to be closed."""

    name = "dyck_language"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Opens and closes at random until enough is said and enough is open."""
        length, fewest_open = 10 * level, 2 + 2 * level
        said, waiting = "", ""
        while len(said) < length or len(waiting) < fewest_open:
            if waiting and chance.random() < 0.45:
                said += CLOSING[waiting[-1]]
                waiting = waiting[:-1]
            else:
                opened = chance.choice("([<+")
                said, waiting = said + opened, waiting + opened
        prompt = (
            "There are four kinds of brackets: ( is closed by ), [ by ], < by >, and + by -. A sequence is "
            "complete when every opening bracket is closed later by its own kind, and pairs never cross. "
            f"This sequence is not complete:\n\n{' '.join(said)}\n\nWhat is the shortest sequence of closing "
            "brackets that completes it when written after it? Write only these closing brackets, in order, "
            "inside \\boxed{}."
        )
        return Puzzle(prompt=prompt, spec={"closing": "".join(CLOSING[each] for each in reversed(waiting))})

    def solve(self, spec: Spec) -> str:
        """What closes the brackets."""
        return text(spec, "closing")

    def verify(self, spec: Spec, answer: str) -> bool:
        """These brackets and no others; white space does not count."""
        return pack(answer) == text(spec, "closing")


def rewrite(start: str, rules: Sequence[tuple[str, str]], most_steps: int) -> tuple[str, int]:
    """What becomes of a string, and after how many replacements."""
    for step in range(most_steps):
        for old, new in rules:
            if old in start:
                start = start.replace(old, new, 1)
                break
        else:
            return start, step
    return start, most_steps


class StringRewriting:
    """Rules that replace parts of a string, applied in a stated order."""

    name = "string_rewriting"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Draws until the rules apply often enough."""
        fewest, most = 2 * level, 4 * level + 2
        while True:
            rules = self._draw_rules(chance, 2 + level)
            start = "".join(chance.choice(LETTERS_OF_RULES) for _ in range(6 + 2 * level))
            result, num_steps = rewrite(start, rules, most)
            if num_steps >= fewest and result not in (start, ""):
                break
        told = "\n".join(f"{place}. {old} -> {new}" for place, (old, new) in enumerate(rules, start=1))
        prompt = (
            f"Start with the string {start} and these rules:\n{told}\n\nOne step: take the first rule in "
            "the list "
            "whose left side occurs in the string, and replace the leftmost occurrence of that left side "
            "by its "
            f"right side. Repeat such steps until no rule applies or {most} steps are done, whichever comes "
            "first. What is the string then? Write it without spaces inside \\boxed{}."
        )
        return Puzzle(prompt=prompt, spec={"result": result})

    def _draw_rules(self, chance: random.Random, count: int) -> list[tuple[str, str]]:
        rules: dict[str, str] = {}
        while len(rules) < count:
            old = "".join(chance.choice(LETTERS_OF_RULES) for _ in range(chance.choice((2, 2, 3))))
            new = "".join(chance.choice(LETTERS_OF_RULES) for _ in range(chance.choice((1, 2, 2, 3))))
            if old not in new:
                rules.setdefault(old, new)
        return list(rules.items())

    def solve(self, spec: Spec) -> str:
        """The last string."""
        return text(spec, "result")

    def verify(self, spec: Spec, answer: str) -> bool:
        """That string."""
        return squeeze(answer) == text(spec, "result")


REWRITING_TASKS: tuple[LogicTask, ...] = (WordSorting(), DyckLanguage(), StringRewriting())
