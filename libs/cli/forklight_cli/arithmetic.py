"""The demo's task: adding two numbers column by column. Writes prompts, held-out prompts and demonstrations.

The demonstrations are a sloppy student's: it knows the method, but mostly guesses at a glance, and when it
does the work it forgets to carry. A model that imitates it is right about as often as the student, and
reinforcement has something to teach: to think first, and to carry. No torch here.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from forklight_core.errors import ConfigError

PROMPTS_FILE = "prompts.jsonl"
HOLDOUT_FILE = "holdout.jsonl"
DEMONSTRATIONS_FILE = "demonstrations.jsonl"
MOST_SUMS = 20_000
MOST_HOLDOUT = 1_000
FAR_OFF = 5  # a guess is off by at most so much


@dataclass(frozen=True, slots=True, kw_only=True)
class ArithmeticTask:
    """How hard the sums are and how sloppy the student is."""

    num_digits: int = 2
    """Digits of each number."""
    num_holdout: int = 256
    """Sums kept from both training and demonstrations."""
    num_demonstrations: int = 8192
    """Worked examples for the cold start."""
    guess_probability: float = 0.25
    """Chance that the student guesses at a glance and skips the work."""
    forget_probability: float = 0.65
    """Chance, when working it out, of forgetting a carry."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.num_digits <= 4 or not 1 <= self.num_holdout <= MOST_HOLDOUT:
            raise ConfigError(
                f"num_digits = {self.num_digits} must be 2 to 4 (one digit carries nothing), and num_holdout = "
                f"{self.num_holdout} must be 1 to {MOST_HOLDOUT}, which leaves sums for training"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ArithmeticFiles:
    """Where the data was written."""

    prompts: Path
    holdout: Path
    demonstrations: Path


def write_arithmetic(folder: Path, task: ArithmeticTask | None = None) -> ArithmeticFiles:
    """Write the three files; the same task always writes the same bytes."""
    task = task or ArithmeticTask()
    chance = random.Random(task.seed)
    sums = choose_sums(task, chance)
    holdout, training = sums[: task.num_holdout], sums[task.num_holdout :]
    files = ArithmeticFiles(
        prompts=folder / PROMPTS_FILE,
        holdout=folder / HOLDOUT_FILE,
        demonstrations=folder / DEMONSTRATIONS_FILE,
    )
    folder.mkdir(parents=True, exist_ok=True)
    _write_lines(files.prompts, (prompt_line(*pair) for pair in training))
    _write_lines(files.holdout, (prompt_line(*pair) for pair in holdout))
    _write_lines(
        files.demonstrations,
        (
            {"prompt": question(*pair), "response": answer(*pair, task=task, chance=chance)}
            for pair in (chance.choice(training) for _ in range(task.num_demonstrations))
        ),
    )
    return files


def choose_sums(task: ArithmeticTask, chance: random.Random) -> list[tuple[int, int]]:
    """Distinct sums in random order, all of which carry from the ones to the tens."""
    low, high = 10 ** (task.num_digits - 1), 10**task.num_digits
    span = high - low
    codes = chance.sample(range(span * span), min(span * span, MOST_SUMS))
    pairs = ((low + code // span, low + code % span) for code in codes)
    return [(left, right) for left, right in pairs if left % 10 + right % 10 >= 10]


def question(left: int, right: int) -> str:
    """The prompt's text."""
    return f"{left}+{right}="


def prompt_line(left: int, right: int) -> dict[str, str]:
    """One prompt as the buffer reads it."""
    return {
        "id": f"add-{left}-{right}",
        "prompt": question(left, right),
        "kind": "math",
        "gold": str(left + right),
    }


def answer(left: int, right: int, *, task: ArithmeticTask, chance: random.Random) -> str:
    """What the student hands in: mostly a guess, now and then the work."""
    if chance.random() < task.guess_probability:
        return guess(left, right, chance=chance)
    return work_out(left, right, task=task, chance=chance)


def guess(left: int, right: int, *, chance: random.Random) -> str:
    """An answer at a glance, seldom right: `<think></think>\\boxed{81}`."""
    return f"<think></think>\\boxed{{{max(0, left + right + chance.randint(-FAR_OFF, FAR_OFF))}}}"


def work_out(left: int, right: int, *, task: ArithmeticTask, chance: random.Random) -> str:
    """The student's answer, columns from the right: `<think>7+8=15 4+3+1=8</think>\\boxed{85}`."""
    columns: list[str] = []
    digits, carry = "", 0
    for place in range(task.num_digits):
        a, b = left // 10**place % 10, right // 10**place % 10
        total = a + b + carry
        columns.append(f"{a}+{b}{'+1' if carry else ''}={total}")
        carry = int(total >= 10)
        digits = f"{total % 10}{digits}"
        is_last = place == task.num_digits - 1
        if carry and not is_last and chance.random() < task.forget_probability:
            carry = 0
    answer = f"{'1' if carry else ''}{digits}"
    return f"<think>{' '.join(columns)}</think>\\boxed{{{answer.lstrip('0') or '0'}}}"


def _write_lines(path: Path, lines: Iterable[Mapping[str, str]]) -> None:
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
