"""Work of every class whose right score is known: a task, responses that are right and that are not."""

# ruff: noqa: INP001
from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count

from forklight.v1 import types_pb2
from forklight_core.wire import SCHEMA_VERSION
from forklight_reward.logic.registry import TASKS, make_puzzle, write_spec

PUZZLES = ("object_tracking", "web_of_lies", "word_sorting", "countdown", "sudoku")
SOFT_BOMB = "x^{5000}-(x+1)^{4999}"
"""Ended by the alarm inside the process, after 2 s."""
HARD_BOMB = "((10^{5000})^{5000})^{5000}"
"""Ended by killing the process, after 4 s."""
_numbers = count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One task. `right` and `wrong` are final answers; `respond` puts a thought before them."""

    spec: types_pb2.TaskSpec
    right: str
    wrong: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One response and the score that it must get."""

    spec: types_pb2.TaskSpec
    response: str
    score: float


def task(kind: str, *, prompt: str = "?", gold: str = "", spec_json: str = "") -> types_pb2.TaskSpec:
    return types_pb2.TaskSpec(
        schema_version=SCHEMA_VERSION, kind=kind, prompt=prompt, gold=gold, spec_json=spec_json
    )


def boxed(answer: str) -> str:
    return f"so \\boxed{{{answer}}}"


def fenced(source: str) -> str:
    return f"```python\n{source}\n```"


def math_fast(number: int) -> Work:
    over, under = number % 89 + 1, number % 13 + 2
    return Work(
        spec=task("math", gold=f"{over}/{under}"),
        right=boxed(rf"\frac{{{3 * over}}}{{{3 * under}}}"),
        wrong=boxed(rf"\frac{{{3 * over + 1}}}{{{3 * under}}}"),
    )


def math_slow(number: int) -> Work:
    first, second = number % 17 + 2, number % 7 + 2
    if number % 2:
        radicand = first * first * 3
        return Work(
            spec=task("math", gold=rf"{first}\sqrt{{3}}"),
            right=boxed(rf"\sqrt{{{radicand}}}"),
            wrong=boxed(rf"\sqrt{{{radicand + 1}}}"),
        )
    return Work(
        spec=task("math", gold=f"(x+{first})(x+{second})"),
        right=boxed(f"x^2+{first + second}x+{first * second}"),
        wrong=boxed(f"x^2+{first + second + 1}x+{first * second}"),
    )


def logic(number: int) -> Work:
    name = PUZZLES[number % len(PUZZLES)]
    rules, seed = TASKS[name], number % 200
    puzzle = make_puzzle(name, seed, 1)
    others = (rules.solve(make_puzzle(name, other, 1).spec) for other in count(seed + 1))
    return Work(
        spec=task("logic", prompt=puzzle.prompt, spec_json=write_spec(name, seed, 1, puzzle)),
        right=boxed(rules.solve(puzzle.spec)),
        wrong=boxed(next(other for other in others if not rules.verify(puzzle.spec, other))),
    )


def code_stdio(number: int) -> Work:
    first, second = number % 97, number % 31
    tests = [{"stdin": f"{first} {second}\n", "stdout": str(first + second)}]
    return Work(
        spec=task("code", spec_json=json.dumps({"mode": "stdio", "language": "python", "tests": tests})),
        right=fenced("print(sum(map(int, input().split())))"),
        wrong=fenced("print(sum(map(int, input().split())) + 1)"),
    )


def code_function(number: int) -> Work:
    cases = [{"args": [number % 97, other], "expected": number % 97 + other} for other in range(5)]
    tests = {"entry": "add", "cases": cases}
    return Work(
        spec=task("code", spec_json=json.dumps({"mode": "function", "language": "python", "tests": tests})),
        right=fenced("def add(a, b):\n    return a + b"),
        wrong=fenced("def add(a, b):\n    return a + b + (b == 4)"),
    )


def judged(number: int) -> Work:
    words = f"the river of case {number} flows north past seven old mills"
    return Work(
        spec=task("judge", prompt=f"Describe case {number}.", gold=words),
        right=words,
        wrong="nobody could tell anything about such matters",
    )


CLASSES: Mapping[str, Callable[[int], Work]] = {
    "math-fast": math_fast,
    "math-slow": math_slow,
    "logic": logic,
    "code-stdio": code_stdio,
    "code-function": code_function,
    "judge": judged,
}


def respond(work: Work, *, is_right: bool) -> Answered:
    """A response that no one has given before: verdicts are remembered by what they are about."""
    final = work.right if is_right else work.wrong
    return Answered(
        spec=work.spec,
        response=f"<think>thought {next(_numbers)}</think>{final}",
        score=float(is_right),
    )


def endless(name: str) -> Iterator[Answered]:
    """Right and wrong responses of a class in turn, over many tasks."""
    made = [CLASSES[name](number) for number in range(100)]
    for number in count():
        yield respond(made[number % len(made)], is_right=number % 3 > 0)


def bombed(name: str, every: int) -> Iterator[Answered]:
    """The same with a bomb at every place of `every`: alternately a soft and a hard one, both worth 0."""
    honest = endless(name)
    for number in count(1):
        if number % every:
            yield next(honest)
            continue
        bomb = SOFT_BOMB if number // every % 2 else HARD_BOMB
        work = Work(spec=task("math", gold="7"), right=boxed("7"), wrong=boxed(bomb))
        yield respond(work, is_right=False)
