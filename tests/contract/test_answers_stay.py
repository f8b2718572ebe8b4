"""What a rollout pod is sent holds no answer and no hidden test, of any kind of prompt; reward gets both."""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path

from forklight.v1 import types_pb2
from forklight_buffer.rehearsal import Stage, rehearse
from forklight_core.redis_server import start_embedded
from forklight_core.runfile import RunFile

SECRET = "31415926535"
BLOB_ID = re.compile(rb"b3:[0-9a-f]{64}")
TESTS = [{"stdin": SECRET, "stdout": SECRET}]
REPO = {
    "files": {"a.py": "x = 1\n"},
    "hidden": {"tests/test_a.py": f"assert {SECRET}\n"},
    "f2p": ["tests/test_a.py::test_a"],
}
ROWS = [
    {"id": "math", "prompt": "how many?", "kind": "math", "gold": SECRET},
    {"id": "code", "prompt": "write it", "kind": "code", "spec": {"mode": "stdio", "tests": TESTS}},
    {"id": "repo", "prompt": "mend it", "kind": "code", "spec": {"mode": "repo", "tests": REPO}},
    {
        "id": "logic",
        "prompt": "solve it",
        "kind": "logic",
        "spec": {"task": "t", "spec": {"solution": SECRET}},
    },
]


def run_file_of(folder: Path) -> RunFile:
    paths = {}
    for name in ("train", "holdout"):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row | {"id": f"{name}-{row['id']}"}) + "\n" for row in ROWS))
        paths[name] = str(path)
    return RunFile.model_validate(
        {
            "prompts": paths,
            "sampling": {"group_size": 2, "max_new_tokens": 8},
            "trainer": {"groups_per_step": 2, "updates_per_version": 1, "steps": 9},
            "buffer": {"max_staleness": 2, "max_open_groups": len(ROWS)},
            "evaluation": {"every_versions": 0},
        }
    )


async def test_no_answer_and_no_hidden_test_reaches_a_pod(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with start_embedded(tmp_path / "redis") as server:
        stage = Stage(
            redis_url=server.url,
            folder=tmp_path,
            run_file=run_file_of(tmp_path),
            run_id=f"t-{secrets.token_hex(4)}",
        )
        async with rehearse(stage) as play:
            await play.open()
            leased = await play.tasks.take("looks", wait_s=0.0, max_items=64)
            kinds = set()
            for entry in leased:
                task = types_pb2.GenerationTask.FromString(entry.body)
                kinds.add(task.prompt_id.partition("-")[2])
                assert SECRET.encode() not in entry.body
                assert task.prompt
                for name in BLOB_ID.findall(entry.body):
                    assert SECRET.encode() not in stage.blobs.get(name.decode())
            assert kinds == {row["id"] for row in ROWS}
            for entry in leased:
                await play.tasks.release(entry.lease)
            await play.generate()
            scored = await play.scoring.take("looks", wait_s=0.0, max_items=64)
            specs = {types_pb2.ScoringTask.FromString(entry.body).spec.id for entry in scored}
            assert len(specs) == len(ROWS)
            assert all(SECRET.encode() in stage.blobs.get(spec) for spec in specs)
