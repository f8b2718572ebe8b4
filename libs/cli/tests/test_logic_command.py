"""`forklight logic` and `forklight verify --kind logic`: files that the buffer reads and the front checks."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from forklight_buffer.prompts import read_prompts
from forklight_cli.main import cli
from forklight_core.errors import BusyError, InvalidInputError
from forklight_reward.logic.registry import TASKS, check


def forklight(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def generate(task: str, out: Path, **numbers: int) -> Result:
    options = [part for name, number in numbers.items() for part in (f"--{name}", number)]
    return forklight("logic", "generate", "--task", task, "--out", out, *options)


def test_list_names_every_task() -> None:
    assert forklight("logic", "list").output.split() == sorted(TASKS)


def test_generated_prompts_are_read_by_the_buffer_and_checked(tmp_path: Path) -> None:
    out = tmp_path / "all.jsonl"
    done = generate("all", out, level=1, count=2, seed=9)
    assert done.exit_code == 0
    report = json.loads(done.output)
    book = read_prompts(out, seed=0, shuffle=False)
    assert len(book) == report["num_written"] == 2 * len(TASKS) - report["num_repeated"]
    assert len(book) > 1.9 * len(TASKS)
    tasks = set()
    for place in range(len(book)):
        prompt = book.at(place)
        assert (prompt.kind, prompt.gold) == ("logic", "")
        record = json.loads(prompt.spec_json)
        assert prompt.prompt_id == f"logic-{record['task']}-1-{record['seed']}"
        assert check(prompt.spec_json, TASKS[record["task"]].solve(record["spec"]))
        tasks.add(record["task"])
    assert tasks == set(TASKS)


def test_the_same_seeds_give_the_same_file_and_others_do_not(tmp_path: Path) -> None:
    texts = []
    for seed in (0, 0, 5):
        out = tmp_path / "some.jsonl"
        generate("zebra_puzzle", out, level=2, count=5, seed=seed)
        texts.append(out.read_text())
    assert texts[0] == texts[1]
    assert not set(texts[0].splitlines()) & set(texts[2].splitlines())


def test_generate_refuses_a_task_nobody_knows(tmp_path: Path) -> None:
    out = tmp_path / "none.jsonl"
    done = forklight("logic", "generate", "--task", "nothing", "--out", out)
    assert isinstance(done.exception, InvalidInputError)
    assert "forklight logic list" in str(done.exception)
    assert not out.exists()
    assert forklight("logic", "generate", "--task", "all", "--level", 6, "--out", out).exit_code == 2


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A specification of its own file, as `verify` takes it."""
    out, spec = tmp_path / "one.jsonl", tmp_path / "spec.json"
    forklight("logic", "generate", "--task", "web_of_lies", "--level", 2, "--out", out)
    spec.write_text(json.dumps(json.loads(out.read_text())["spec"]))
    return spec


def test_verify_says_whether_a_puzzle_is_solved(spec: Path) -> None:
    right = TASKS["web_of_lies"].solve(json.loads(spec.read_text())["spec"])
    for answer, correct in (
        (right, True),
        (f"<think>so</think> \\boxed{{{right}}}", True),
        (f"<think>\\boxed{{{right}}}</think> so", False),
        ("truth", False),
        ("", False),
    ):
        done = forklight("verify", "--kind", "logic", "--spec", spec, "--answer", answer)
        assert (done.exit_code, json.loads(done.output)["correct"]) == (0, correct)


def test_verify_refuses_a_broken_specification_and_mixed_options(spec: Path, tmp_path: Path) -> None:
    assert forklight("verify", "--kind", "logic", "--spec", spec).exit_code == 2
    assert forklight("verify", "--kind", "logic", "--gold", "1", "--answer", "1").exit_code == 2
    assert forklight("verify", "--spec", spec, "--gold", "1", "--answer", "1").exit_code == 2
    missing = forklight("verify", "--kind", "logic", "--spec", tmp_path / "no.json", "--answer", "1")
    assert isinstance(missing.exception, InvalidInputError)
    spec.write_text("{}")
    broken = forklight("verify", "--kind", "logic", "--spec", spec, "--answer", "1")
    assert isinstance(broken.exception, InvalidInputError)


def test_generate_keeps_the_old_file_when_the_new_one_cannot_be_whole(tmp_path: Path) -> None:
    full = generate("zebra_puzzle", Path("/dev/full"), count=2)
    assert isinstance(full.exception, BusyError)
    assert "/dev/full: no room on the disk" in str(full.exception)
    (tmp_path / "file").write_text("")
    lost = generate("zebra_puzzle", tmp_path / "file" / "some.jsonl", count=2)
    assert isinstance(lost.exception, InvalidInputError)
    assert "check the path and its rights" in str(lost.exception)
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)  # still a device, though root may replace it


def test_generate_leaves_one_file(tmp_path: Path) -> None:
    out = tmp_path / "some.jsonl"
    out.write_text("old\n")
    assert generate("zebra_puzzle", out, count=3).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["some.jsonl"]
    assert len(out.read_text().splitlines()) == 3
