"""`forklight repo` as a person calls it: its tasks, rows that a run reads, refusals and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from forklight_buffer.prompts import read_prompts
from forklight_cli.commands.repo import repo
from forklight_core.errors import InvalidInputError
from forklight_reward.sandbox.spec import parse_spec


def call(*words: str) -> Result:
    found = CliRunner().invoke(repo, list(words))
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found


def lines(found: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in found.output.splitlines()]


def test_list_and_show() -> None:
    tasks = lines(call("list"))
    assert len(tasks) == 20
    assert {"task", "issue", "num_files", "num_f2p", "num_p2p"} == tasks[0].keys()
    shown, fix = call("show", "lru-cache"), call("show", "lru-cache", "--fix")
    assert "lru/cache.py" in shown.output
    assert fix.output.startswith("--- a/lru/cache.py\n+++ b/lru/cache.py\n@@ ")
    assert fix.output not in shown.output


def test_exported_rows_are_read_by_a_run_and_judged(tmp_path: Path) -> None:
    out = tmp_path / "prompts.jsonl"
    assert lines(call("export", "all", "--shell", "--out", str(out)))[0]["num_written"] == 20
    book = read_prompts(out, seed=1, shuffle=False)
    row = book.at(0)
    assert (len(book), row.kind, row.gold) == (20, "code", "")
    tests = parse_spec(row.spec_json, "a patch").repo_tests
    assert tests is not None
    assert tests.patch == ""
    assert tests.hidden
    assert "tests/" not in row.workspace_json
    assert json.loads(row.workspace_json) == tests.files


def test_a_task_that_is_none_ends_with_exit_code_1(tmp_path: Path) -> None:
    task = {
        "id": "idle",
        "issue": "nothing",
        "fix": "--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-x = 1\n+x = 2\n",
        "tests": {
            "files": {"a.py": "x = 1\n"},
            "hidden": {"test_a.py": "from a import x\ndef test_x():\n    assert x\n"},
            "f2p": ["test_a.py::test_x"],
        },
    }
    place = tmp_path / "idle.json"
    place.write_text(json.dumps(task))
    found = call("check", str(place))
    assert found.exit_code == 1
    assert lines(found)[0]["problems"] == ["fail-to-pass test_a.py::test_x passes without a patch"]


def test_import_says_what_it_refused(tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    records.write_text('{"repo": "a/b"}\n')
    found = call("import", str(records), "--out", str(tmp_path / "out"))
    assert found.exit_code == 1
    assert lines(found) == [
        {"record": "line 1", "refused": "has no instance_id"},
        {"out": str(tmp_path / "out"), "num_written": 0, "num_refused": 1},
    ]


def test_an_unknown_task_is_wrong_input() -> None:
    with pytest.raises(InvalidInputError, match="there is no task"):
        call("check", "nothing")
