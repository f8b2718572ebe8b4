"""`forklight judge` against a chat endpoint on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from forklight_cli.commands.judge import judge
from forklight_reward.judge.rule import overlap
from forklight_reward.judge.scripted import Bias, ScriptedChat
from services.reward.tests.judge.chat_server import Body, ChatServer, Reply, follow, start_server

__all__ = ["start_server"]

Start = Callable[[Callable[[Body], Reply]], ChatServer]


def quality(candidate: str, reference: str) -> float:
    """Worth by what an answer begins with, so that padding alone changes nothing."""
    return overlap(reference, candidate[: len(reference)])


@pytest.mark.parametrize(("bias", "code"), [(0.0, 0), (0.15, 1)])
def test_check_prints_what_the_judge_pays_for(start_server: Start, bias: float, code: int) -> None:
    server = start_server(follow(ScriptedChat(Bias(length=bias), quality)))
    done = CliRunner().invoke(
        judge, ["check", "--endpoint", server.url, "--model", "m"], standalone_mode=False
    )
    assert done.exception is None
    assert done.return_value == code
    assert ("PAID FOR" in done.output) is bool(code)
    assert "forged reply" in done.output
    assert "12 answers" in done.output


def test_references_are_written_whole(start_server: Start, tmp_path: Path) -> None:
    server = start_server(follow(ScriptedChat(quality=lambda answer, _: len(answer) / 10)))
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows.write_text(json.dumps({"id": "a", "prompt": "Count.", "candidates": ["1", "1 2", "1 2 3"]}) + "\n")
    done = CliRunner().invoke(judge, ["references", str(rows), "--out", str(out), "--endpoint", server.url])
    assert done.exit_code == 0, done.output
    assert json.loads(out.read_text()) == {
        "id": "a",
        "prompt": "Count.",
        "kind": "judge",
        "gold": "1 2 3",
        "spec": {"mode": "pairwise", "references": ["1 2", "1"]},
    }
    assert [path.name for path in tmp_path.iterdir()].count(".out.jsonl") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "rows.jsonl"]
