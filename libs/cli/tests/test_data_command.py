"""`forklight data` as a person calls it: from the shipped example to the prompts of a run."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from forklight_buffer.adapters.sqlite.schema import SCHEMA
from forklight_buffer.prompts import read_prompts
from forklight_cli.commands.data import data
from forklight_cli.data_rules import RewardRules, ledger_pass_rates
from forklight_core.errors import InvalidInputError
from forklight_data.record import read_record
from forklight_reward.logic.registry import make_puzzle, spec_record

EXAMPLE = Path(__file__).resolve().parents[3] / "infra" / "examples" / "data"


DROPPED = {
    "needs_picture": 1,
    "multi_part": 1,
    "proof": 1,
    "yes_no": 1,
    "closed_choice": 1,
    "unverifiable_answer": 1,
    "conflicting_answers": 2,
    "duplicate": 1,
    "contaminated": 1,
    "contaminated_short": 1,
    "too_easy": 2,
    "too_hard": 1,
}


def call(*arguments: str | Path) -> str:
    done = CliRunner().invoke(data, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_example_goes_from_problems_to_the_prompts_of_a_run(tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    report = json.loads(call("import", EXAMPLE / "problems.jsonl", "--out", records, "--source", "examples"))
    assert (report["num_read"], report["num_records"], report["num_rejected"]) == (28, 26, 2)
    curated = tmp_path / "curated"
    held, rates = EXAMPLE / "held_out.jsonl", EXAMPLE / "pass_rates.jsonl"
    steps = call("curate", records, "--out", curated, "--against", held, "--pass-rates", rates)
    told = [json.loads(line)["reasons"] for line in steps.splitlines()]
    assert {name: number for reasons in told for name, number in reasons.items()} == DROPPED
    found = lines(curated / "curated.jsonl")
    again = call(
        "curate", records, "--out", curated, "--recipe", EXAMPLE / "recipe.toml", "--from-step", "pass_rate"
    )
    assert [json.loads(line)["as_before"] for line in again.splitlines()] == [True, False, *[True] * 5, False]
    assert lines(curated / "curated.jsonl") == found
    assert all("math-rules/" in item["verifier"]["version"] for item in found)
    assert (
        next(item for item in found if item["id"] == "p12")["prompt"][0]["content"]
        == "What is the value of 2^5 - 3^3?"
    )
    counted = json.loads(call("stats", curated / "curated.jsonl", "--json"))
    assert counted["by_policy"] == {"small/v0": len(found)} and counted["num_duplicates"] == 0
    call(
        "split",
        curated / "curated.jsonl",
        "--out",
        tmp_path / "run",
        "--part",
        "train=0.75",
        "--part",
        "holdout=0.25",
    )
    books = [
        read_prompts(tmp_path / "run" / f"{name}.jsonl", seed=0, shuffle=False)
        for name in ("train", "holdout")
    ]
    assert sorted(prompt.prompt_id for book in books for prompt in book.prompts) == sorted(
        item["id"] for item in found
    )
    prompt = next(prompt for book in books for prompt in book.prompts if prompt.prompt_id == "p12")
    assert (prompt.kind, prompt.gold, prompt.text) == ("math", "5", "What is the value of 2^5 - 3^3?")
    again = call("import", tmp_path / "run" / "train.jsonl", "--out", tmp_path / "again.jsonl")
    assert json.loads(again)["num_records"] == len(books[0])


def record(kind: str, answer: str, spec: object = None) -> Any:
    prompt = [{"role": "user", "content": "?"}]
    row: dict[str, Any] = {"id": "a", "source": "s", "domain": "math", "prompt": prompt, "answer": answer}
    return read_record(row | {"verifier": {"kind": kind, "spec": spec or {}}})


def test_the_real_rules_read_references() -> None:
    rules = RewardRules()
    good = [
        "42",
        "\\frac{1}{2}",
        "0.5",
        "(-3, 3]",
        "\\{1,2\\}",
        "x^2+1",
        "\\sqrt{2}",
        "Paris",
        "1,000",
        "50\\%",
        "\\pi",
    ]
    assert {answer: rules.find_problem(record("math", answer)) for answer in good} == dict.fromkeys(good, "")
    bad = ["", "   ", "\\frac{1}{", "9^{9^{9^{9}}}", "because the light is scattered by small things in air"]
    assert [answer for answer in bad if not rules.find_problem(record("math", answer))] == []
    assert rules.agree("math", "1/2", "0.5") and not rules.agree("math", "100", "110")
    puzzle = spec_record("sudoku", 1, 1, make_puzzle("sudoku", 1, 1))
    assert rules.find_problem(record("logic", "", puzzle)) == ""
    assert "logic" in rules.find_problem(record("logic", "", {**puzzle, "level": 99}))
    tests = {"mode": "stdio", "language": "python", "tests": [{"stdin": "1", "stdout": "2"}]}
    assert rules.find_problem(record("code", "", tests)) == ""
    assert "tests" in rules.find_problem(record("code", "", {**tests, "tests": []}))
    assert "no tests" in rules.find_problem(record("code", "", {"mode": "run"}))
    assert rules.find_problem(record("judge", "a good answer")) == ""
    assert "no reference" in rules.find_problem(record("judge", ""))


SAMPLE = "INSERT INTO samples VALUES (?, ?, ?, 1, 10, '', 1.0, 5, 1, 0, 0, 'l', 1, '', 0, 0, 0, 1, ?)"
GROUP = "INSERT INTO groups VALUES (?, 1, 0, ?, ?, 'math', 4, 64, ?, 0, NULL, 1)"


def write_ledger(folder: Path, groups: Sequence[tuple[str, str, int, Sequence[float | None]]]) -> None:
    connection = sqlite3.connect(folder / "ledger.sqlite")
    connection.executescript(SCHEMA)
    for place, (group, prompt, version, correct) in enumerate(groups):
        connection.execute(GROUP, (group, place, prompt, version))
        for number, value in enumerate(correct):
            connection.execute(SAMPLE, (f"{group}/{number}", group, prompt, value))
    connection.commit()
    connection.close()


def test_pass_rates_come_out_of_a_run_s_ledger(tmp_path: Path) -> None:
    groups = [
        ("g0", "p0", 1, [1, 1, 1, 1]),
        ("g1", "p0", 6, [1, 0, None, 0.5]),
        ("g2", "p1", 2, [None, None]),
    ]
    write_ledger(tmp_path, groups)
    found = [json.loads(line) for line in ledger_pass_rates(tmp_path)]
    assert found == [{"id": "p0", "k": 3, "passes": 1, "policy_version": f"{tmp_path.name}/v6"}]
    with pytest.raises(InvalidInputError, match=r"no ledger\.sqlite"):
        list(ledger_pass_rates(tmp_path / "none"))


def test_help_tells_what_each_command_does() -> None:
    for name, words in (
        ("import", "rejects"),
        ("curate", "manifest"),
        ("stats", "pass rates"),
        ("split", "near duplicates"),
    ):
        assert words in call(name, "--help")
    refused = CliRunner().invoke(data, ["import", "x.jsonl", "--out", "y", "--domain", "maths"])
    assert refused.exit_code == 2
