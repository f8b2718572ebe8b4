"""Puzzles whose answer is an expression: countdown, twenty-four, operators between digits."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from forklight_reward.logic.expressions import evaluate, numbers_in, tokenize
from forklight_reward.logic.fields import text, whole, wholes
from forklight_reward.logic.task import LogicTask, Puzzle, Spec

Part = tuple[Fraction, str]
"""A value and how it is written."""
HARD_QUADS = ((3, 3, 8, 8), (1, 5, 5, 5), (1, 4, 5, 6), (4, 4, 7, 7), (3, 3, 7, 7), (1, 3, 4, 6))
"""Fours that make 24 only with a fraction on the way."""
SHAPE = "using only these numbers, + - * / and round brackets"


def joined(left: Part, right: Part) -> list[Part]:
    """All results of one operator between two parts."""
    (a, first), (b, second) = left, right
    made = [(a + b, f"({first}+{second})"), (a * b, f"({first}*{second})")]
    made += [(a - b, f"({first}-{second})"), (b - a, f"({second}-{first})")]
    if b:
        made.append((a / b, f"({first}/{second})"))
    if a:
        made.append((b / a, f"({second}/{first})"))
    return made


def reach(parts: Sequence[Part], target: Fraction) -> str | None:
    """An expression of all parts with the target's value."""
    if len(parts) == 1:
        return parts[0][1] if parts[0][0] == target else None
    for first, second in itertools.combinations(range(len(parts)), 2):
        rest = [part for index, part in enumerate(parts) if index not in (first, second)]
        seen = set()
        for made in joined(parts[first], parts[second]):
            if made[0] in seen:
                continue
            seen.add(made[0])
            way = reach([*rest, made], target)
            if way is not None:
                return way
    return None


def reach_whole(values: list[int], target: int) -> bool:
    """Whether all numbers make the target with + - * alone."""
    if len(values) == 1:
        return values[0] == target
    for first, second in itertools.combinations(range(len(values)), 2):
        a, b = values[first], values[second]
        rest = [value for index, value in enumerate(values) if index not in (first, second)]
        if any(reach_whole([*rest, made], target) for made in {a + b, a * b, a - b, b - a}):
            return True
    return False


def reach_pairs(pairs: list[tuple[int, int]], target: int) -> bool:
    """Whether all numbers, as numerator and denominator, make the target; the quick half of `reach`."""
    if len(pairs) == 1:
        return pairs[0][1] != 0 and pairs[0][0] == target * pairs[0][1]
    for first, second in itertools.combinations(range(len(pairs)), 2):
        (a, b), (c, d) = pairs[first], pairs[second]
        rest = [pair for index, pair in enumerate(pairs) if index not in (first, second)]
        made = {(a * d + b * c, b * d), (a * d - b * c, b * d), (b * c - a * d, b * d), (a * c, b * d)}
        made |= {pair for pair in ((a * d, b * c), (b * c, a * d)) if pair[1]}
        if any(reach_pairs([*rest, pair], target) for pair in made):
            return True
    return False


def as_parts(values: Sequence[int]) -> list[Part]:
    """Numbers before any step."""
    return [(Fraction(value), str(value)) for value in values]


def without_brackets(way: str) -> str:
    """The outer brackets say nothing."""
    return way[1:-1] if way.startswith("(") else way


@dataclass(frozen=True, slots=True)
class Countdown:
    """Reach a target with each number at most once."""

    name: str = "countdown"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Combine the numbers at random, whole and positive on the way."""
        while True:
            numbers = self.draw_numbers(chance, level)
            used = level + 1 if level < 5 else 6
            target, way = self.combine(as_parts(chance.sample(numbers, used)), chance)
            if 10 * level < target < (100, 200, 400, 999, 999)[level - 1] and target not in numbers:
                break
        prompt = (
            f"Numbers: {', '.join(map(str, numbers))}. Write an expression with the value {target}, {SHAPE}. "
            "Each number may be used at most as often as it is listed, and not all need to be used; numbers "
            "may not be joined or negated. Put only the expression inside \\boxed{}, for example "
            "\\boxed{(3+4)*5-6}."
        )
        return Puzzle(
            prompt=prompt, spec={"numbers": numbers, "target": target, "way": without_brackets(way)}
        )

    def draw_numbers(self, chance: random.Random, level: int) -> list[int]:
        """Small ones, and some large ones at higher levels."""
        num_large = (0, 0, 1, 2, 2)[level - 1]
        large = chance.sample((25, 50, 75, 100), num_large)
        return large + [chance.randint(1, 10) for _ in range((3, 4, 4, 4, 4)[level - 1])]

    def combine(self, parts: list[Part], chance: random.Random) -> tuple[int, str]:
        """One part out of all, by random steps."""
        while len(parts) > 1:
            chance.shuffle(parts)
            left, right, *rest = parts
            made = [part for part in joined(left, right) if part[0] > 0 and part[0].denominator == 1]
            parts = [*rest, chance.choice(made)]
        return int(parts[0][0]), parts[0][1]

    def solve(self, spec: Spec) -> str:
        """The way it was made."""
        return text(spec, "way")

    def verify(self, spec: Spec, answer: str) -> bool:
        """Only listed numbers, no more often than listed, and the exact value."""
        tokens = tokenize(answer)
        if tokens is None or Counter(numbers_in(tokens)) - Counter(wholes(spec, "numbers")):
            return False
        return evaluate(tokens) == whole(spec, "target")


@dataclass(frozen=True, slots=True)
class TwentyFour:
    """Make 24 from four numbers, each exactly once."""

    name: str = "twenty_four"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Small numbers first; from level 4 on a division is needed."""
        largest = (6, 9, 13, 13, 20)[level - 1]
        numbers = list(chance.choice(HARD_QUADS))
        for _ in range(60):
            drawn = [chance.randint(1, largest) for _ in range(4)]
            if level >= 4 and reach_whole(drawn, 24):
                continue
            if reach_pairs([(number, 1) for number in drawn], 24):
                numbers = drawn
                break
        chance.shuffle(numbers)
        prompt = (
            f"Write an expression with the value 24, {SHAPE}: {', '.join(map(str, numbers))}. Each number "
            "must be used exactly as often as it is listed; numbers may not be joined or negated, and "
            "fractions may occur on the way. Put only the expression inside \\boxed{}, for example "
            "\\boxed{(1+2)*(3+5)}."
        )
        return Puzzle(prompt=prompt, spec={"numbers": numbers})

    def solve(self, spec: Spec) -> str:
        """Search all expressions."""
        way = reach(as_parts(wholes(spec, "numbers")), Fraction(24))
        return "" if way is None else without_brackets(way)

    def verify(self, spec: Spec, answer: str) -> bool:
        """Exactly the listed numbers, and the exact value."""
        tokens = tokenize(answer)
        if tokens is None or Counter(numbers_in(tokens)) != Counter(wholes(spec, "numbers")):
            return False
        return evaluate(tokens) == 24


@dataclass(frozen=True, slots=True)
class OperatorPuzzle:
    """Put + - * between digits to reach a target; higher levels may join digits."""

    name: str = "operator_puzzle"

    def generate(self, chance: random.Random, level: int) -> Puzzle:
        """Random operators give the target; a trivial one is drawn again."""
        count = level + 3
        symbols = ["+", "-", "*", ""] if level >= 4 else ["+", "-", "*"]
        target = 0
        while not 10 <= target <= 2000:
            digits = "".join(chance.choice("123456789") for _ in range(count))
            chosen = [chance.choice(symbols) for _ in range(count - 1)]
            value = evaluate(tokenize(interleave(digits, chosen)) or [])
            target = int(value or 0)
        places = "Between two neighbouring digits write one of + - * " + (
            "or nothing, which joins them to one number" if level >= 4 else "(exactly one between each two)"
        )
        prompt = (
            f"Digits: {' '.join(digits)}. {places}, so that the expression has the value {target}. The "
            "digits stay in their order, * binds before + and -, and there are no brackets. Put only the "
            "whole expression inside \\boxed{}, for example \\boxed{3+5*2-1}."
        )
        return Puzzle(prompt=prompt, spec={"digits": digits, "target": target, "may_join": level >= 4})

    def solve(self, spec: Spec) -> str:
        """Try all operators."""
        digits, target = text(spec, "digits"), whole(spec, "target")
        symbols = ["+", "-", "*", ""] if spec["may_join"] is True else ["+", "-", "*"]
        for chosen in itertools.product(symbols, repeat=len(digits) - 1):
            expression = interleave(digits, chosen)
            if sum_of_products(expression) == target:
                return expression
        return ""

    def verify(self, spec: Spec, answer: str) -> bool:
        """The same digits in their order, allowed signs between, and the value."""
        digits = text(spec, "digits")
        tokens = tokenize(answer)
        if tokens is None or not set(tokens).isdisjoint({"(", ")", "/"}):
            return False
        written = [token for token in tokens if token[0].isdigit()]
        if "".join(written) != digits or (spec["may_join"] is not True and len(written) != len(digits)):
            return False
        return evaluate(tokens) == whole(spec, "target")


def interleave(digits: str, symbols: Sequence[str]) -> str:
    """Digits with a symbol between each two."""
    return digits[0] + "".join(symbol + digit for symbol, digit in zip(symbols, digits[1:], strict=True))


def sum_of_products(expression: str) -> int:
    """The value of our own expression of + - * without brackets."""
    total = 0
    for term in expression.replace("-", "+-").split("+"):
        product = -1 if term.startswith("-") else 1
        for factor in term.removeprefix("-").split("*"):
            product *= int(factor)
        total += product
    return total


ARITHMETIC_TASKS: tuple[LogicTask, ...] = (Countdown(), TwentyFour(), OperatorPuzzle())
