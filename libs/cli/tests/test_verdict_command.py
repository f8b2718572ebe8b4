"""`forklight verdict` on a run folder that a front has written."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner

from forklight.v1 import types_pb2
from forklight_cli.commands.verdict import verdict
from forklight_core.blobs import open_blob_store
from forklight_reward.audit.log import FOLDER, AuditLog
from forklight_reward.rehearsal import RUN_ID, TaskMaker, local_scorer

RIGHT = r"<think>6 * 7</think> \boxed{42}"


def make_run(folder: Path) -> types_pb2.Verdict:
    """A run folder with one verdict, of an answer that only the rules of equivalence decide."""
    (folder / "run.toml").write_text("[recipe]\noverlong_penalty = false\n")
    tasks = TaskMaker(blobs=open_blob_store((folder / "blobs").as_uri()))
    audit = AuditLog(folder / FOLDER, run_id=RUN_ID, pod="reward-0")
    audit.open()
    scorer = replace(local_scorer(tasks), audit=audit)
    found = asyncio.run(scorer.score_task(tasks.task(RIGHT), attempt=1))
    audit.close()
    return found


def call(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(verdict, arguments, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return int(done.return_value or 0), done.output


def test_a_verdict_is_shown_replayed_and_proven(tmp_path: Path) -> None:
    made = make_run(tmp_path)
    run = ("--run", str(tmp_path))
    (shown,) = json.loads(call("show", made.key[:8], *run)[1])
    assert (shown["key"], shown["status"], shown["score"]) == (made.key, "ok", 1.0)
    code, text = call("replay", made.envelope.sample_id, *run)
    again = json.loads(text)
    assert (code, again["same"], again["differs"]) == (0, True, [])
    assert again["stored"]["parts"] == again["replayed"]["parts"]
    assert call("check", str(tmp_path))[0] == 0
    (path,) = (tmp_path / FOLDER).glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"score":1.0', b'"score":0.0'))
    code, text = call("check", str(tmp_path), "--json")
    (report,) = json.loads(text)
    assert (code, report["state"]) == (1, "broken")
    assert report["fault"].startswith(f"{path}:2:")
    code, text = call("replay", made.key, *run)
    assert code == 1
    assert json.loads(text)["differs"] == ["score"]
