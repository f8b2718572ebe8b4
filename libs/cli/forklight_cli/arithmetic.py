"""The demo's task: adding two numbers, column by column. Writes prompts, held-out prompts and demonstrations.

The demonstrations are a sloppy student's: it knows its sums, but at times it guesses at a glance, and when it
does the work it mostly writes the answer down in a hurry, in the order it came: ones first. A model that
imitates it is right about as often as the student, and reinforcement has something to teach: to think first,
and to write with care. No torch here.
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
SMALLEST = 10
FAR_OFF = 5  # a guess is off by at most so much


@dataclass(frozen=True, slots=True, kw_only=True)
class ArithmeticTask:
    """How hard the sums are and how sloppy the student is."""

    largest: int = 49
    """Largest number; the smallest is 10. Up to 49 every answer has two digits."""
    num_holdout: int = 256
    """Sums kept from both training and demonstrations."""
    num_demonstrations: int = 8192
    """Worked examples for the cold start."""
    guess_probability: float = 0.25
    """Chance that the student guesses at a glance and skips the work."""
    hurry_probability: float = 0.76
    """Chance, when working it out, of writing the answer ones first."""
    seed: int = 0

    def __post_init__(self) -> None:
        num_sums = (self.largest - SMALLEST + 1) ** 2
        if not SMALLEST < self.largest <= 99 or not 1 <= self.num_holdout < num_sums:
            raise ConfigError(
                f"largest = {self.largest} must be {SMALLEST + 1} to 99, and num_holdout = "
                f"{self.num_holdout} must leave some of the {num_sums} sums for training"
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
    """Every sum once, in random order."""
    numbers = range(SMALLEST, task.largest + 1)
    sums = [(left, right) for left in numbers for right in numbers]
    chance.shuffle(sums)
    return sums


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
    """The student's work, ones first: `<think>7+8=15 4+3+1=8</think>\\boxed{85}`."""
    ones = left % 10 + right % 10
    carry = "+1" if ones >= 10 else ""
    tens = (left + right) // 10
    work = f"{left % 10}+{right % 10}={ones} {left // 10}+{right // 10}{carry}={tens}"
    is_hurried = chance.random() < task.hurry_probability
    result = f"{ones % 10}{tens}" if is_hurried else f"{tens}{ones % 10}"
    return f"<think>{work}</think>\\boxed{{{result}}}"


def _write_lines(path: Path, lines: Iterable[Mapping[str, str]]) -> None:
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
