"""All tasks by name, and specifications as they travel."""

from __future__ import annotations

import json
import time

import pytest

from forklight_core.errors import InvalidInputError
from forklight_reward.logic.registry import ALL_TASKS, MOST_SPEC_BYTES, TASKS, check, make_puzzle, write_spec
from forklight_reward.logic.task import LEVELS, MOST_ANSWER_CHARACTERS
from forklight_reward.verifier.extract import extract_answer

NAME = "letter_counting"


def written(name: str = NAME, seed: int = 3, level: int = 2) -> str:
    return write_spec(name, seed, level, make_puzzle(name, seed, level))


def changed(**fields: object) -> str:
    return json.dumps(json.loads(written()) | fields)


def test_there_are_41_tasks_with_names_of_their_own() -> None:
    names = [task.name for task in ALL_TASKS]
    assert len(names) == len(set(names)) == len(TASKS) == 41
    assert all(name.replace("_", "").isalnum() and name.islower() for name in names)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_is_solved_and_checked_as_it_travels(name: str) -> None:
    for level in LEVELS:
        puzzle = make_puzzle(name, 7, level)
        spec_json = write_spec(name, 7, level, puzzle)
        assert spec_json == write_spec(name, 7, level, make_puzzle(name, 7, level))
        assert len(spec_json) < MOST_SPEC_BYTES / 2
        solution = TASKS[name].solve(puzzle.spec)
        # A policy puts it into a box, and the front takes it out again.
        boxed = extract_answer(f"<think>so</think> The answer is \\boxed{{{solution}}}.").answer
        assert boxed is not None
        assert check(spec_json, boxed) is True
        assert check(spec_json, "") is False
        assert check(spec_json, solution + "x" * MOST_ANSWER_CHARACTERS) is False


def test_puzzles_are_the_same_on_every_machine() -> None:
    prompt = make_puzzle("dyck_language", 1, 1).prompt
    assert make_puzzle("dyck_language", 2, 1).prompt != prompt
    assert make_puzzle("dyck_language", 1, 2).prompt != prompt
    assert make_puzzle("dyck_language", 1, 1).spec == {"closing": ">]>)->"}


@pytest.mark.parametrize(
    "spec_json",
    [
        "",
        "{",
        "[]",
        "null",
        "[" * 60000,
        "{}",
        changed(task="no_such_task"),
        changed(task=["letter_counting"]),
        changed(task="web_of_lies"),
        changed(level=0),
        changed(level=True),
        changed(level="2"),
        changed(seed=1.5),
        changed(seed=None),
        changed(spec={}),
        changed(spec=[]),
        changed(spec={"counts": "3"}),
        changed(spec={"counts": [1, "2"]}),
        changed(spec={"counts": [1.0, 2]}),
        changed(spec={"counts": [1], "more": 1}),
        changed(more=1),
        written().replace("[", "[NaN, ", 1),
        written() + " " * MOST_SPEC_BYTES,
    ],
)
def test_a_broken_specification_is_an_error_and_no_score(spec_json: str) -> None:
    with pytest.raises(InvalidInputError):
        check(spec_json, "1, 2, 3")


@pytest.mark.parametrize("name", sorted(TASKS))
def test_no_task_scores_by_fields_of_another_type(name: str) -> None:
    record = json.loads(written(name))
    for key, value in record["spec"].items():
        for wrong in (None, True, {"a": 1}, []):
            if type(wrong) is type(value):
                continue
            with pytest.raises(InvalidInputError):
                check(json.dumps(record | {"spec": record["spec"] | {key: wrong}}), "1")


@pytest.mark.parametrize("name", sorted(TASKS))
def test_checking_any_text_of_the_longest_length_is_quick(name: str) -> None:
    spec_json = written(name, level=5)
    for piece in ("1 ", "a->b,", "((", "true, ", "1;", "A 9:00, ", "9", "R"):
        best = 1.0
        for _ in range(3):
            started = time.perf_counter()
            assert check(spec_json, (piece * MOST_ANSWER_CHARACTERS)[:MOST_ANSWER_CHARACTERS]) is False
            best = min(best, time.perf_counter() - started)
        assert best < 0.01


@pytest.mark.parametrize(
    ("name", "seed", "level"), [("nothing", 0, 1), (NAME, 0, 0), (NAME, 0, 6), (NAME, -1, 1)]
)
def test_a_puzzle_nobody_can_draw_is_refused(name: str, seed: int, level: int) -> None:
    with pytest.raises(InvalidInputError):
        make_puzzle(name, seed, level)
