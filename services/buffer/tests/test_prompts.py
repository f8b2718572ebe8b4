"""The prompt source: every malformed line is named with file and line; the order is seeded and endless."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from forklight.v1 import types_pb2
from forklight_buffer.prompts import read_prompts
from forklight_buffer.records import GroupRow
from forklight_buffer.rehearsal import write_prompts
from forklight_buffer.states import Purpose
from forklight_buffer.tasks import TaskMaker
from forklight_core.blobs import MemoryBlobStore
from forklight_core.errors import InvalidInputError
from forklight_core.runfile import RunFile
from forklight_core.wire import parse

GOOD = '{"id": "a", "prompt": "1+1?", "kind": "math", "gold": "2"}'
TOOL_ROWS: dict[str, dict[str, list[str]]] = {
    "all": {},
    "named": {"tools": ["python"]},
    "none": {"tools": []},
}
ROW: dict[str, object] = {
    "group_id": "r/g00000000",
    "purpose": Purpose.TRAIN,
    "index": 0,
    "position": 0,
    "kind": "math",
    "size": 2,
    "window": 8,
    "opened_version": 0,
    "opened_at": 0.0,
}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{not json", "not JSON"),
        ("[1, 2]", "a list, not an object"),
        ('{"id": "b", "kind": "math"}', "prompt is missing"),
        ('{"id": "b", "prompt": 3, "kind": "math"}', "prompt is 3, not text"),
        ('{"id": "b", "prompt": " ", "kind": "math"}', "prompt is empty"),
        ('{"id": "b", "prompt": "?", "kind": "math", "answer": "2"}', "unknown key 'answer'"),
        ('{"id": "b", "prompt": "?", "kind": "code", "spec": "text"}', "spec is a str"),
        ('{"id": "b", "prompt": "?", "kind": "math", "tools": "python"}', "tools is 'python'"),
        ('{"id": "b", "prompt": "?", "kind": "math", "tools": ["python", "web"]}', "unknown tool 'web'"),
        (GOOD, "id 'a' is taken by line 1"),
    ],
)
def test_a_malformed_line_is_named_with_file_and_line(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(f"{GOOD}\n\n{line}\n")
    with pytest.raises(InvalidInputError) as raised:
        read_prompts(path, seed=0, shuffle=True)
    assert str(raised.value).startswith(f"{path}:3: ")
    assert problem in str(raised.value)


@pytest.mark.parametrize(("content", "problem"), [(b"", "no prompt"), (b"\xff\xfe", "not UTF-8")])
def test_a_file_without_prompts_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=problem):
        read_prompts(path, seed=0, shuffle=True)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"nothing\.jsonl: prompts cannot be read"):
        read_prompts(tmp_path / "nothing.jsonl", seed=0, shuffle=True)


def test_numbers_and_specs_are_kept_when_they_are_well_formed(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"id": 7, "prompt": "?", "kind": "code", "gold": 2, "spec": {"tests": [1]}}))
    prompt = read_prompts(path, seed=0, shuffle=True).at(0)
    assert (prompt.prompt_id, prompt.gold, json.loads(prompt.spec_json)) == ("7", "2", {"tests": [1]})


def test_tools_of_a_task_are_the_run_s_less_those_its_prompt_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    lines = [json.loads(GOOD) | {"id": name} | more for name, more in TOOL_ROWS.items()]
    path.write_text("\n".join(map(json.dumps, lines)))
    prompts = read_prompts(path, seed=0, shuffle=False)
    run_file = RunFile.model_validate({"tools": {"names": ["python"], "max_calls": 3}})

    def tools_of(name: str, run_file: RunFile) -> types_pb2.Tools | None:
        prompt = prompts.by_id(name)
        assert prompt is not None
        row = GroupRow(**ROW, prompt_id=name)  # type: ignore[arg-type]
        maker = TaskMaker("r", run_file, MemoryBlobStore())
        task = parse(types_pb2.GenerationTask, asyncio.run(maker.make_opening(row, prompt)).task)
        return task.tools if task.HasField("tools") else None

    expected = types_pb2.Tools(names=["python"], max_calls=3, max_output_tokens=1024, timeout_s=10.0)
    assert {name: tools_of(name, run_file) for name in TOOL_ROWS} == {
        "all": expected,
        "named": expected,
        "none": None,
    }
    assert tools_of("named", RunFile()) is None


def test_a_workspace_travels_as_a_blob_with_the_shell_only(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    files = {"a.py": "x = 1\n"}
    rows = {
        "with": {"workspace": files},
        "without": {},
        "left out": {"workspace": files, "tools": ["python"]},
    }
    lines = [json.loads(GOOD) | {"id": name} | row for name, row in rows.items()]
    path.write_text("\n".join(map(json.dumps, lines)))
    prompts, blobs = read_prompts(path, seed=0, shuffle=False), MemoryBlobStore()
    maker = TaskMaker("r", RunFile.model_validate({"tools": {"names": ["python", "shell"]}}), blobs)
    found = {}
    for name in rows:
        prompt = prompts.by_id(name)
        assert prompt is not None
        row = GroupRow(**ROW, prompt_id=name)  # type: ignore[arg-type]
        tools = parse(types_pb2.GenerationTask, asyncio.run(maker.make_opening(row, prompt)).task).tools
        workspace = json.loads(blobs.get(tools.workspace.id)) if tools.HasField("workspace") else None
        found[name] = (list(tools.names), workspace)
    assert found == {
        "with": (["python", "shell"], files),
        "without": (["python"], None),
        "left out": (["python"], None),
    }
    path.write_text(json.dumps(json.loads(GOOD) | {"workspace": {"a": 1}}))
    with pytest.raises(InvalidInputError, match="workspace must be an object of path to text"):
        read_prompts(path, seed=0, shuffle=False)


def test_every_epoch_holds_every_prompt_in_another_order(tmp_path: Path) -> None:
    book = read_prompts(write_prompts(tmp_path / "train.jsonl", 50), seed=3, shuffle=True)
    epochs = [[book.at(50 * epoch + place).prompt_id for place in range(50)] for epoch in range(3)]
    assert all(len(set(epoch)) == 50 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_order_is_the_same_when_asked_in_any_order(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "train.jsonl", 20)
    forward = read_prompts(path, seed=3, shuffle=True)
    names = [forward.at(position).prompt_id for position in range(60)]
    backward = read_prompts(path, seed=3, shuffle=True)
    assert [backward.at(position).prompt_id for position in reversed(range(60))] == names[::-1]
    other = read_prompts(path, seed=4, shuffle=True)
    assert [other.at(position).prompt_id for position in range(60)] != names


def test_the_file_order_is_kept_when_shuffle_is_off(tmp_path: Path) -> None:
    book = read_prompts(write_prompts(tmp_path / "train.jsonl", 3), seed=3, shuffle=False)
    assert [book.at(position).prompt_id for position in range(5)] == ["p000", "p001", "p002", "p000", "p001"]
