"""The demo's data: well-formed, split cleanly, the same every time, and as sloppy as promised."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from forklight_cli.arithmetic import ArithmeticTask, answer, guess, work_out, write_arithmetic
from forklight_core.errors import ConfigError

CAREFUL = ArithmeticTask(guess_probability=0.0, hurry_probability=0.0)


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def boxed(response: str) -> int:
    found = re.fullmatch(r"<think>.*</think>\\boxed\{(\d+)\}", response)
    assert found is not None, response
    return int(found.group(1))


def test_write_arithmetic_when_done_splits_the_sums_cleanly(tmp_path: Path) -> None:
    files = write_arithmetic(tmp_path)
    prompts, holdout = read(files.prompts), read(files.holdout)
    assert len(prompts) + len(holdout) == 40 * 40
    assert not {line["id"] for line in prompts} & {line["id"] for line in holdout}
    held_out = {line["prompt"] for line in holdout}
    demonstrations = read(files.demonstrations)
    assert not any(line["prompt"] in held_out for line in demonstrations)
    for line in (*prompts[:50], *holdout[:50]):
        left, right = re.fullmatch(r"(\d\d)\+(\d\d)=", line["prompt"]).groups()  # type: ignore[union-attr]
        assert (line["kind"], line["gold"]) == ("math", str(int(left) + int(right)))


def test_write_arithmetic_when_repeated_writes_the_same_bytes(tmp_path: Path) -> None:
    first, again = write_arithmetic(tmp_path / "a"), write_arithmetic(tmp_path / "b")
    assert first.demonstrations.read_bytes() == again.demonstrations.read_bytes()
    assert first.prompts.read_bytes() == again.prompts.read_bytes()
    other = write_arithmetic(tmp_path / "c", ArithmeticTask(seed=1))
    assert other.holdout.read_bytes() != first.holdout.read_bytes()


def test_write_arithmetic_when_imitated_is_right_between_a_tenth_and_a_third(tmp_path: Path) -> None:
    lines = read(write_arithmetic(tmp_path).demonstrations)
    terms = [line["prompt"].rstrip("=").split("+") for line in lines]
    right = [
        boxed(line["response"]) == int(left) + int(right)
        for line, (left, right) in zip(lines, terms, strict=True)
    ]
    assert 0.10 < sum(right) / len(right) < 0.33


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (47, 38, "<think>7+8=15 4+3+1=8</think>\\boxed{85}"),
        (12, 30, "<think>2+0=2 1+3=4</think>\\boxed{42}"),
        (99, 99, "<think>9+9=18 9+9+1=19</think>\\boxed{198}"),
    ],
)
def test_work_out_when_careful_shows_the_columns(left: int, right: int, expected: str) -> None:
    assert work_out(left, right, task=CAREFUL, chance=random.Random(0)) == expected


def test_work_out_when_careful_is_right_for_every_sum() -> None:
    chance = random.Random(0)
    for left in range(10, 100):
        for right in range(10, 100):
            assert boxed(work_out(left, right, task=CAREFUL, chance=chance)) == left + right


def test_work_out_when_hurried_writes_the_ones_first() -> None:
    task = ArithmeticTask(hurry_probability=1.0)
    assert work_out(47, 38, task=task, chance=random.Random(0)) == "<think>7+8=15 4+3+1=8</think>\\boxed{58}"


def test_guess_when_made_skips_the_work_and_is_near() -> None:
    chance = random.Random(0)
    guesses = [guess(47, 38, chance=chance) for _ in range(50)]
    assert all(text.startswith("<think></think>") and 80 <= boxed(text) <= 90 for text in guesses)
    assert answer(47, 38, task=CAREFUL, chance=chance) == work_out(47, 38, task=CAREFUL, chance=chance)


@pytest.mark.parametrize("wrong", [{"largest": 10}, {"largest": 100}, {"num_holdout": 1600}])
def test_task_when_impossible_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="must leave"):
        ArithmeticTask(**wrong)  # type: ignore[arg-type]
