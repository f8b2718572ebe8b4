"""What every logic task must keep, whatever its puzzle: the shared half of each family's test.

    CASES = cases(ARITHMETIC_TASKS)

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_task_keeps_its_properties_when_drawn(case: Case) -> None:
        check_all(case, still_right=ORACLES.get(case.task.name))

`still_right` is a checker written apart from `verify`, for tasks with several right answers; a task without
one has one right answer, and any mutation that is more than white space must be refused.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from forklight_reward.logic.task import LEVELS, MOST_ANSWER_CHARACTERS, LogicTask, Puzzle, Spec

StillRight = Callable[[Spec, str], bool]
SEEDS = (0, 1)
MOST_VERIFY_S = 0.010
MOST_GENERATE_S = 0.300
MOST_SOLVE_S = 1.0
BOX_BYTES = 4096

SHORT_GARBAGE = (
    *(
        "",
        ":",
        " ",
        "\n",
        ";",
        ",",
        "->",
        "=",
        "-",
        "+",
        "()",
        "{}",
        "[]",
        "0",
        "nan",
        "NaN",
        "inf",
        "-inf",
        "1e309",
    ),
    *(
        "None",
        "True",
        "Thought process:",
        "I think that the answer is yes",
        "\\text{}",
        "\\boxed{1}",
        "$$",
        "%s%n",
    ),
    *(
        "\x00",
        "\ud800",
        "\u202e",
        "\u0661\u0662\u0663",
        "\u00b2",
        "\uff11",
        "../../etc/passwd",
        "1/0",
        "0-0/0",
    ),
    *('__import__("os").system("x")', "().__class__.__subclasses__()", "9**9**9**9", "9^9^9^9"),
)
LONG_GARBAGE = (
    *(
        "(" * 2000 + "1" + ")" * 2000,
        "[" * 4096,
        "{" * 2000 + "}" * 2000,
        "-" * 4000 + "1",
        "0." + "0" * 4000,
    ),
    *("9" * 4096, "1" * 5000, "1 " * 2048, "1;" * 2048, "\n" * 4096, "a->" * 1365, "A=1," * 1024),
    *(",".join(["99999999999999999999"] * 190), "\U0001f600" * 100, "x" * MOST_ANSWER_CHARACTERS),
    *("x" * 1_000_000, "1," * 500_000, "(" * 1_000_000, " " * 1_000_000),
)
GARBAGE = SHORT_GARBAGE + LONG_GARBAGE


@dataclass(frozen=True)
class Case:
    """One task at one level from one seed."""

    task: LogicTask
    level: int
    seed: int

    def __str__(self) -> str:
        """The test's id."""
        return f"{self.task.name}-level{self.level}-seed{self.seed}"

    def draw(self) -> Puzzle:
        """The puzzle, from a fresh source of chance."""
        return self.task.generate(random.Random(f"{self.task.name}/{self.level}/{self.seed}"), self.level)

    @cached_property
    def puzzle(self) -> Puzzle:
        """The puzzle, drawn once."""
        return self.draw()

    @cached_property
    def solution(self) -> str:
        """The task's own answer, found once."""
        return self.task.solve(self.puzzle.spec)


def cases(tasks: Iterable[LogicTask], seeds: Iterable[int] = SEEDS) -> list[Case]:
    """Every task at every level, from several seeds."""
    drawn = tuple(seeds)
    return [Case(task, level, seed) for task in tasks for level in LEVELS for seed in drawn]


def check_all(case: Case, still_right: StillRight | None = None) -> None:
    """All properties of one case."""
    check_solution(case)
    check_repeatable(case)
    check_plain(case)
    check_mutations(case, still_right)
    check_garbage(case)


def check_solution(case: Case) -> None:
    """The solver's answer is right, also padded with white space, and every step is quick."""
    spec, solution = case.puzzle.spec, case.solution
    assert case.task.verify(spec, solution), (case.puzzle.prompt, solution)
    assert case.task.verify(spec, f" {solution}\n"), "white space around an answer is harmless"
    assert 0 < len(solution) <= MOST_ANSWER_CHARACTERS
    assert verify_s(case, solution) < MOST_VERIFY_S
    assert best_s(case.draw, enough_s=MOST_GENERATE_S) < MOST_GENERATE_S
    assert best_s(lambda: case.task.solve(spec), enough_s=MOST_SOLVE_S) < MOST_SOLVE_S


def check_repeatable(case: Case) -> None:
    """The same seed gives the same prompt and the same bytes; another seed gives another puzzle."""
    again = case.draw()
    assert again.prompt == case.puzzle.prompt
    assert json.dumps(again.spec) == json.dumps(case.puzzle.spec)
    others = (Case(case.task, case.level, seed).draw().prompt for seed in range(100, 110))
    assert any(other != case.puzzle.prompt for other in others), "no chance is drawn"


def check_plain(case: Case) -> None:
    """Specifications survive JSON, hold no floats, and still verify; prompts say where the answer goes."""
    spec = json.loads(json.dumps(case.puzzle.spec), parse_float=refuse_float)
    assert spec == json.loads(json.dumps(spec))
    assert case.task.verify(spec, case.solution)
    assert case.task.solve(spec) == case.solution
    assert "\\boxed{" in case.puzzle.prompt
    assert case.puzzle.prompt.isascii()


def refuse_float(text: str) -> float:
    """A float in a specification."""
    message = f"a specification holds the float {text}"
    raise AssertionError(message)


def check_mutations(case: Case, still_right: StillRight | None) -> None:
    """A changed solution is refused, unless the task's other checker calls it right too."""
    spec, solution = case.puzzle.spec, case.solution
    num_refused = 0
    for mutant in mutations(solution, random.Random(case.seed)):
        same = mutant.split() == solution.split()
        if same or (still_right is not None and still_right(spec, mutant)):
            continue
        assert not case.task.verify(spec, mutant), (case.puzzle.prompt, solution, mutant)
        num_refused += 1
    assert num_refused > 0, "no mutation of the solution was wrong"


def check_wrong(case: Case, wrong: Iterable[str]) -> None:
    """None of the answers that a test calls wrong is right."""
    for answer in wrong:
        assert not case.task.verify(case.puzzle.spec, answer), (case.puzzle.prompt, answer)


def check_garbage(case: Case) -> None:
    """Garbage is never right, never raises, and is refused in 10 ms; "0" and such may be a right number."""
    solution = "".join(case.solution.split())
    for text in (*GARBAGE, *noise(random.Random(case.seed)), case.solution + "x" * 5000):
        if len(text) <= MOST_ANSWER_CHARACTERS and "".join(text.split()) == solution:
            continue
        started = time.perf_counter()
        right = case.task.verify(case.puzzle.spec, text)
        took_s = time.perf_counter() - started
        assert right is False, text[:100]
        if took_s >= MOST_VERIFY_S:
            assert verify_s(case, text) < MOST_VERIFY_S, text[:100]


def mutations(solution: str, chance: random.Random, count: int = 6) -> list[str]:
    """The solution with a symbol changed, dropped, doubled or swapped; cut and lengthened."""
    symbols = sorted({*solution, *"0123456789"} - set(" \n"))
    places = [place for place, symbol in enumerate(solution) if symbol not in " \n"]
    made = [
        solution[:-1],
        solution[1:],
        solution + solution,
        solution + "1",
        "1" + solution,
        solution + ";1 2 3",
    ]
    for _ in range(count):
        place, other = chance.choice(places), chance.choice(places)
        made.append(solution[:place] + chance.choice(symbols) + solution[place + 1 :])
        made.append(solution[:place] + solution[place + 1 :])
        made.append(solution[:place] + solution[place] + solution[place:])
        swapped = list(solution)
        swapped[place], swapped[other] = swapped[other], swapped[place]
        made.append("".join(swapped))
    return made


def noise(chance: random.Random) -> list[str]:
    """Random text: any characters, ASCII, and the alphabet of answers."""
    texts = []
    for length in (1, 7, 100, BOX_BYTES):
        texts.append("".join(chr(chance.randrange(1, 0xD7FF)) for _ in range(length)))
        texts.append("".join(chr(chance.randrange(32, 127)) for _ in range(length)))
        if length > 1:
            texts.append("".join(chance.choice("0123456789 ,;->=+*/()") for _ in range(length)))
    return texts


def verify_s(case: Case, answer: str) -> float:
    """Best time of three."""
    return best_s(lambda: case.task.verify(case.puzzle.spec, answer), enough_s=MOST_VERIFY_S / 2)


def best_s(call: Callable[[], object], *, enough_s: float) -> float:
    """The shortest of three runs; one is enough when it is short enough."""
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
        if best < enough_s:
            break
    return best
