"""Puzzles whose answer is numbers: cryptarithm, number sequence, custom operators."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from forklight_reward.logic.columns import Columns, value_of
from forklight_reward.logic.fields import items, texts, whole, whole_rows, wholes
from forklight_reward.logic.reading import plain, read_integer, read_integers
from forklight_reward.logic.task import LogicTask, Puzzle, Spec

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
PAIR = re.compile(r"\s*([A-Z])\s*=\s*([0-9])\s*")


@dataclass(frozen=True, slots=True)
class Cryptarithm:
    """Letters for digits in an addition; hints make the solution unique."""

    name: str = "cryptarithm"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Longer words and more addends; letters are given away while there are two solutions."""
        length, num_addends = ((2, 2), (3, 2), (4, 2), (5, 2), (5, 3))[level - 1]
        numbers = [chance.randrange(10 ** (length - 1), 10**length) for _ in range(num_addends)]
        numbers.append(sum(numbers))
        letters = chance.sample(LETTERS, 10)
        words = ["".join(letters[int(digit)] for digit in str(number)) for number in numbers]
        truth = {letter: letters.index(letter) for letter in sorted(set("".join(words)))}
        hints: dict[str, int] = {}
        while True:
            found = list(itertools.islice(Columns(words, hints).search(), 2))
            other = next((digits for digits in found if digits != truth), None)
            if other is None:
                break
            hint = chance.choice([letter for letter in truth if other[letter] != truth[letter]])
            hints[hint] = truth[hint]
        given = "".join(f" It is known that {letter} = {digit}." for letter, digit in sorted(hints.items()))
        prompt = (
            f"In {' + '.join(words[:-1])} = {words[-1]} each letter stands for one digit, different letters "
            f"for different digits, and no number starts with 0.{given} Find all digits. Write every letter "
            "with its digit inside \\boxed{}, separated by commas, for example \\boxed{A=1,B=2}."
        )
        spec: Spec = {
            "words": words,
            "hints": [f"{letter}={digit}" for letter, digit in sorted(hints.items())],
        }
        return Puzzle(prompt=prompt, spec=spec)

    def solve(self, spec: Spec) -> str:
        """The first solution."""
        hints = {hint[0]: int(hint[2]) for hint in texts(spec, "hints")}
        digits = next(Columns(texts(spec, "words"), hints).search())
        return ",".join(f"{letter}={digit}" for letter, digit in sorted(digits.items()))

    def verify(self, spec: Spec, answer: str) -> bool:
        """Every letter once, different digits, no leading zero, and the sum is right."""
        written = plain(answer)
        pairs = [PAIR.fullmatch(part) for part in written.split(",", 30)] if written else []
        digits = {pair.group(1): int(pair.group(2)) for pair in pairs if pair is not None}
        words = texts(spec, "words")
        if not pairs or len(digits) != len(pairs) or set(digits) != set("".join(words)):
            return False
        if len(set(digits.values())) != len(digits) or any(digits[word[0]] == 0 for word in words):
            return False
        if any(digits[hint[0]] != int(hint[2]) for hint in texts(spec, "hints")):
            return False
        return sum(value_of(word, digits) for word in words[:-1]) == value_of(words[-1], digits)


KINDS = (
    ("a(n) = a(n-1) + r", (1,), (0,), 12),
    ("a(n) = p*a(n-1) + r", None, (0,), 5),
    ("a(n) = p*a(n-1) + q*a(n-2) + r", None, None, 3),
    ("a(n) = p*a(n-1) + q*a(n-2) + r*n", None, None, 3),
    ("a(n) = p*a(n-1) + q*a(n-2) + r*n + s", None, None, 2),
)
"""By level: the rule, the values of p and q when they are fixed, and the largest size of the others."""
Coefficients = tuple[int, int, int, int]


def coefficient_choices(level: int) -> list[Coefficients]:
    """All (p, q, slope, constant) of a level's rule."""
    _, fixed_p, fixed_q, size = KINDS[level - 1]
    sizes = range(-size, size + 1)
    slopes = sizes if level >= 4 else (0,)
    constants = (0,) if level == 4 else sizes
    return list(itertools.product(fixed_p or sizes, fixed_q or sizes, slopes, constants))


def follow(terms: Sequence[int], rule: Coefficients, count: int) -> list[int]:
    """The terms after the last one; n counts from 1."""
    p, q, slope, constant = rule
    known = list(terms)
    for _ in range(count):
        before = known[-2] if len(known) > 1 else 0
        known.append(p * known[-1] + q * before + slope * (len(known) + 1) + constant)
    return known[len(terms) :]


def fits(terms: Sequence[int], rule: Coefficients, first: int) -> bool:
    """Whether the rule holds from the term with index `first` on."""
    p, q, slope, constant = rule
    for index in range(first, len(terms)):
        before = terms[index - 2] if index > 1 else 0
        if terms[index] != p * terms[index - 1] + q * before + slope * (index + 1) + constant:
            return False
    return True


def continuations(terms: Sequence[int], level: int, count: int) -> set[tuple[int, ...]]:
    """What every rule of the level that fits the terms says about the next ones."""
    first = 1 if level <= 2 else 2
    return {
        tuple(follow(terms, rule, count)) for rule in coefficient_choices(level) if fits(terms, rule, first)
    }


@dataclass(frozen=True, slots=True)
class NumberSequence:
    """The next terms of a linear rule with hidden coefficients."""

    name: str = "number_sequence"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Rules of growing order; only sequences with one continuation under the stated kind."""
        rules, count = coefficient_choices(level), 2 + level // 3
        while True:
            rule = chance.choice(rules)
            start = [chance.randint(-9, 20) for _ in range(1 if level <= 2 else 2)]
            terms = start + follow(start, rule, 6 - len(start) + level // 4)
            lively = len(set(terms)) >= len(terms) - 1 and max(map(abs, terms)) < 10**6
            real = (level == 1 or rule[0] not in (0, 1)) and (level <= 2 or rule[1] != 0)
            if lively and real and len(continuations(terms, level, count)) == 1:
                break
        kind, _, _, size = KINDS[level - 1]
        letters = " and ".join(letter for letter in "pqrs" if f"{letter}*" in kind or f"+ {letter}" in kind)
        prompt = (
            f"The sequence a(1), a(2), ... = {', '.join(map(str, terms))}, ... follows the rule {kind}, with "
            f"fixed whole numbers {letters} from {-size} to {size} that are not told; the first {len(start)} "
            f"of the terms are free. Find the next {count} terms. Write them inside \\boxed{{}}, separated "
            "by commas, for example \\boxed{12,-5}."
        )
        return Puzzle(
            prompt=prompt,
            spec={"terms": terms, "level": level, "count": count, "next": list(follow(terms, rule, count))},
        )

    def solve(self, spec: Spec) -> str:
        """Fit a rule."""
        found = continuations(wholes(spec, "terms"), whole(spec, "level"), whole(spec, "count"))
        return ",".join(map(str, min(found)))

    def verify(self, spec: Spec, answer: str) -> bool:
        """Exactly the next terms."""
        return read_integers(answer) == wholes(spec, "next")


SYMBOLS = "@#&"


def operate(rule: Sequence[int], left: int, right: int) -> int:
    """a*x + b*y + c*x*y + d."""
    a, b, c, d = rule
    return a * left + b * right + c * left * right + d


def rule_text(symbol: str, rule: Sequence[int]) -> str:
    """A definition as a person writes it."""
    written = f"x {symbol} y ="
    for size, name in zip(rule, ("x", "y", "x*y", ""), strict=True):
        if size:
            sign = " - " if size < 0 else " " if written.endswith("=") else " + "
            number = str(abs(size)) if abs(size) != 1 or not name else ""
            written += sign + "*".join(part for part in (number, name) if part)
    return written


def run_postfix(tokens: Sequence[int | str], rules: Sequence[Sequence[int]]) -> int:
    """The value of numbers and symbols in postfix order."""
    stack: list[int] = []
    for token in tokens:
        if isinstance(token, int):
            stack.append(token)
        else:
            right, left = stack.pop(), stack.pop()
            stack.append(operate(rules[SYMBOLS.index(token)], left, right))
    return stack.pop()


@dataclass(frozen=True, slots=True)
class CustomOperator:
    """Evaluate an expression under newly defined operators."""

    name: str = "custom_operator"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """More operators and deeper nesting."""
        num_rules = min(3, 1 + level // 2)
        value = 10**9
        while not 10 < abs(value) < 10**8:
            rules = [self.draw_rule(chance) for _ in range(num_rules)]
            written, postfix = self.nest(chance, level + 1, SYMBOLS[:num_rules])
            value = run_postfix(postfix, rules)
        defined = "; ".join(rule_text(symbol, rule) for symbol, rule in zip(SYMBOLS, rules, strict=False))
        prompt = (
            f"For whole numbers x and y let {defined}. Everything on the right has its usual meaning. Find "
            f"the value of {written[1:-1]}. Write only the whole number inside \\boxed{{}}, for example "
            "\\boxed{-12}."
        )
        return Puzzle(prompt=prompt, spec={"rules": rules, "postfix": postfix, "value": value})

    def draw_rule(self, chance: random.Random) -> list[int]:
        """Never symmetric in x and y."""
        a, b = chance.sample((-3, -2, -1, 1, 2, 3), 2)
        return [a, b, chance.choice((0, 0, 1, -1)), chance.randint(-5, 5)]

    def nest(self, chance: random.Random, num_operators: int, symbols: str) -> tuple[str, list[int | str]]:
        """A random tree, written in full brackets and in postfix order."""
        if num_operators == 0:
            number = chance.randint(1, 9)
            return str(number), [number]
        on_left = chance.randrange(num_operators)
        left, right = (
            self.nest(chance, on_left, symbols),
            self.nest(chance, num_operators - 1 - on_left, symbols),
        )
        symbol = chance.choice(symbols)
        return f"({left[0]} {symbol} {right[0]})", [*left[1], *right[1], symbol]

    def solve(self, spec: Spec) -> str:
        """Work it out."""
        tokens = [token for token in items(spec, "postfix") if isinstance(token, int | str)]
        return str(run_postfix(tokens, whole_rows(spec, "rules")))

    def verify(self, spec: Spec, answer: str) -> bool:
        """The one value."""
        return read_integer(answer) == whole(spec, "value")


NUMERAL_TASKS: tuple[LogicTask, ...] = (Cryptarithm(), NumberSequence(), CustomOperator())
