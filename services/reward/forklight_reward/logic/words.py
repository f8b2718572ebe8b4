"""Logic tasks over letters: ciphers, codes to rearrange, letters to count."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from forklight_reward.logic.fields import text, text_rows, wholes
from forklight_reward.logic.task import LogicTask, Puzzle, Spec
from forklight_reward.logic.vocabulary import LETTERS, draw_words, number_of, split_commas, squeeze

MOST_MATCHING_STEPS = 3000


def move_letters(word: str, places: int) -> str:
    """Every letter moved forward, z followed by a."""
    return "".join(LETTERS[(LETTERS.index(letter) + places) % 26] for letter in word)


class CaesarCipher:
    """A message moved along the alphabet, from level 3 by more places with every word."""

    name = "caesar_cipher"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """From level 4 the first word is given instead of the shift."""
        message = draw_words(chance, 2 * level)
        shift, step = chance.randrange(1, 26), 0 if level < 3 else chance.randrange(1, 26)
        secret = [move_letters(word, shift + step * place) for place, word in enumerate(message)]
        how = f"Every letter of the first word was moved forward by {shift} places"
        if level >= 4:
            how = (
                "Every letter of the first word was moved forward by the same unknown number of places "
                f"(the first word of the message is {message[0]!r})"
            )
        grows = (
            f"in every later word by {step} places more than in the word before it"
            if step
            else "in all words"
        )
        grows = f"and {grows}" if step else "and so were the letters of all other words"
        prompt = (
            f"A message was enciphered. {how}, {grows}. The alphabet is a to z, and after z comes a "
            "again.\n\n"
            f"Enciphered message: {' '.join(secret)}\n\n"
            "What was the message? Write all of its words in lower case, separated by single spaces, inside "
            "\\boxed{}."
        )
        return Puzzle(prompt=prompt, spec={"message": " ".join(message)})

    def solve(self, spec: Spec) -> str:
        """The message."""
        return text(spec, "message")

    def verify(self, spec: Spec, answer: str) -> bool:
        """The message and nothing else."""
        return squeeze(answer) == text(spec, "message")


def pattern_of(word: str) -> tuple[int, ...]:
    """Which letters of a word are equal."""
    return tuple(word.index(letter) for letter in word)


def extend(key: dict[str, str], secret: str, plain: str) -> dict[str, str] | None:
    """A key from secret to plain letters that explains one more word; None when none can."""
    if pattern_of(secret) != pattern_of(plain):
        return None
    longer = dict(key)
    for hidden, letter in zip(secret, plain, strict=True):
        if longer.setdefault(hidden, letter) != letter:
            return None
    return longer if len(set(longer.values())) == len(longer) else None


def find_keys(
    secrets: Sequence[str], plains: Sequence[str], key: dict[str, str]
) -> Iterator[dict[str, str] | None]:
    """Every key that explains the secret words by the plain ones in some order; None for each step."""
    yield None
    if not secrets:
        yield key
        return
    for place, plain in enumerate(plains):
        longer = extend(key, secrets[0], plain)
        if longer is not None:
            yield from find_keys(secrets[1:], [*plains[:place], *plains[place + 1 :]], longer)


def has_one_reading(secrets: Sequence[str], plains: Sequence[str], message: str) -> bool:
    """Whether all matchings of the examples read the message the same; False when that costs too much."""
    readings: set[str] = set()
    for step, key in enumerate(find_keys(sorted(secrets, key=len, reverse=True), plains, {})):
        if step > MOST_MATCHING_STEPS:
            return False
        if key is not None:
            readings.add("".join(key.get(letter, letter) for letter in message))
        if len(readings) > 1:
            return False
    return len(readings) == 1


class SubstitutionCipher:
    """A message under a secret alphabet, with examples that determine it."""

    name = "substitution_cipher"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """From level 3 it is not said which example belongs to which."""
        while True:
            shuffled = chance.sample(LETTERS, 26)
            alphabet = str.maketrans(LETTERS, "".join(shuffled))
            examples, message = self._draw(chance, level)
            secrets = [word.translate(alphabet) for word in examples]
            hidden = " ".join(message).translate(alphabet)
            if level < 3 or has_one_reading(secrets, examples, hidden):
                break
        if level < 3:
            pairs = ", ".join(f"{secret} = {word}" for secret, word in zip(secrets, examples, strict=True))
            given = f"Examples (enciphered = plain): {pairs}"
        else:
            given = (
                "The following enciphered words stand for the following plain words, one for one, but both "
                "lists are in alphabetical order, so you have to find out which belongs to which.\n"
                f"Enciphered: {', '.join(sorted(secrets))}\nPlain: {', '.join(sorted(examples))}"
            )
        prompt = (
            "In a cipher every letter of the alphabet is replaced by one letter (maybe itself), "
            "different letters by "
            f"different letters, everywhere the same way.\n\n{given}\n\nEnciphered message: {hidden}\n\n"
            "What is the plain message? Write all of its words in lower case, separated by single spaces, "
            "inside \\boxed{}."
        )
        return Puzzle(prompt=prompt, spec={"message": " ".join(message)})

    def _draw(self, chance: random.Random, level: int) -> tuple[list[str], list[str]]:
        """Example words, and a message of other words that needs none but their letters."""
        while True:
            drawn = draw_words(chance, 40)
            examples = drawn[: 4 + level]
            known = set("".join(examples))
            message = [word for word in drawn[4 + level :] if set(word) <= known][: level + 1]
            if len(message) == level + 1:
                return examples, message

    def solve(self, spec: Spec) -> str:
        """The message."""
        return text(spec, "message")

    def verify(self, spec: Spec, answer: str) -> bool:
        """The message and nothing else."""
        return squeeze(answer) == text(spec, "message")


RULES = {
    "before": "{0} stands somewhere to the left of {1}",
    "next": "{0} stands immediately to the left of {1}",
    "beside": "{0} and {1} are neighbours",
    "apart": "{0} and {1} are not neighbours",
    "place": "{0} is character number {1}",
    "between": "exactly {2} characters stand between {0} and {1}",
}


def holds(rule: Sequence[str], code: str) -> bool:
    """Whether an arrangement obeys a rule."""
    kind, first, second, *rest = rule
    if kind == "place":
        return str(code.index(first) + 1) == second
    left, right = code.index(first), code.index(second)
    gap = abs(left - right) - 1
    match kind:
        case "before":
            return left < right
        case "next":
            return right == left + 1
        case "beside":
            return gap == 0
        case "apart":
            return gap > 0
        case "between":
            return str(gap) == rest[0]
    raise ValueError(f"unknown rule {kind!r}")


class AnagramOfCode:
    """A code whose characters have to be rearranged; any order that obeys all rules is right."""

    name = "anagram_of_code"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Rules are what holds in one secret arrangement."""
        num_signs = 4 + level
        signs = chance.sample("ABCDEFGHJKLMNPQRSTUVWXYZ23456789", num_signs)
        secret = "".join(signs)
        shown = secret
        while shown == secret:
            shown = "".join(chance.sample(signs, num_signs))
        rules: list[list[str]] = []
        while len(rules) < num_signs + level or all(holds(rule, shown) for rule in rules):
            rule = self._draw_rule(chance, secret)
            if holds(rule, secret) and rule not in rules:
                rules.append(rule)
        told = "\n".join(f"- {RULES[kind].format(*given)}" for kind, *given in rules)
        prompt = (
            f"Rearrange the {num_signs} characters of the code {shown} so that all of these rules "
            f"hold:\n{told}\n\n"
            "Characters are numbered from the left, beginning with 1; every character of the code is "
            "used exactly "
            "once. Where several arrangements obey all rules, any of them is right. Write the rearranged "
            "code "
            "without spaces inside \\boxed{}."
        )
        return Puzzle(prompt=prompt, spec={"rules": rules, "solution": secret})

    def _draw_rule(self, chance: random.Random, secret: str) -> list[str]:
        kind = chance.choice(["before", "before", "next", "beside", "apart", "between", "place"])
        first, second = chance.sample(secret, 2)
        gap = abs(secret.index(first) - secret.index(second)) - 1
        if kind == "place":
            return [kind, first, str(secret.index(first) + 1)]
        return [kind, first, second, str(gap)] if kind == "between" else [kind, first, second]

    def solve(self, spec: Spec) -> str:
        """The arrangement the rules came from."""
        return text(spec, "solution")

    def verify(self, spec: Spec, answer: str) -> bool:
        """The same characters, and every rule."""
        code = squeeze(answer)
        if sorted(code) != sorted(text(spec, "solution")):
            return False
        return all(holds(rule, code) for rule in text_rows(spec, "rules"))


class LetterCounting:
    """How often letters occur; from level 3 some of the words do not count."""

    name = "letter_counting"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """More words and more letters with the level."""
        words = [chance.choice(draw_words(chance, 30)) for _ in range(8 * level * (1 + level // 3))]
        asked = chance.sample("aeiourtlnsc", 2 + level)
        skipped = words[0][0] if level >= 3 else ""
        counts = [sum(word.count(letter) for word in words if word[0] != skipped) for letter in asked]
        note = f" Words that begin with {skipped!r} do not count." if skipped else ""
        prompt = (
            f"Look at this text:\n\n{' '.join(words)}\n\nHow often does each of these letters occur in it: "
            f"{', '.join(asked)}?{note}\n\nWrite the {len(asked)} numbers in the order of the letters, "
            "separated by "
            "commas, inside \\boxed{}, like \\boxed{3, 0}."
        )
        return Puzzle(prompt=prompt, spec={"counts": counts})

    def solve(self, spec: Spec) -> str:
        """The numbers."""
        return ", ".join(str(count) for count in wholes(spec, "counts"))

    def verify(self, spec: Spec, answer: str) -> bool:
        """All numbers, in order."""
        return [number_of(part) for part in split_commas(answer)] == wholes(spec, "counts")


WORD_TASKS: tuple[LogicTask, ...] = (CaesarCipher(), SubstitutionCipher(), AnagramOfCode(), LetterCounting())
