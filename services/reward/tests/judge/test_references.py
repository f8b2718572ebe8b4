"""References by tournament: the best answer wins, and a failure loses nothing that was decided."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from forklight_core.errors import InvalidInputError, UnavailableError
from forklight_reward.judge.client import ChatClient, ChatOptions, Endpoint
from forklight_reward.judge.pairwise import Pairwise
from forklight_reward.judge.references import Tournaments, read_contest, read_contests
from forklight_reward.judge.scripted import ScriptedChat
from forklight_reward.judge.spec import parse_judge_spec
from services.reward.tests.judge.chat_server import Body, ChatServer, Reply, follow

Start = Callable[[Callable[[Body], Reply]], ChatServer]


def strength(candidate: str, _: str) -> float:
    return int(candidate.rsplit(maxsplit=1)[-1]) / 10


def write_rows(path: Path, num_rows: int) -> Path:
    rows = [
        {
            "id": f"p{number}",
            "prompt": f"Write a line about {number}.",
            "candidates": [
                f"line {(number + each) % 5} of strength {(number + each) % 5}" for each in range(5)
            ],
            "spec": {"constraints": [{"rule": "ascii"}]},
        }
        for number in range(num_rows)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


async def play(server: ChatServer, rows: Path, partial: Path) -> dict[str, int]:
    client = ChatClient([Endpoint(url=server.url)], ChatOptions())
    try:
        games = Tournaments(judge=Pairwise(client), keep=2, timeout_s=5, at_once=2)
        return await games.play_all(read_contests(rows), partial, lambda count: None)
    finally:
        await client.close()


async def test_the_best_answer_becomes_the_reference_and_what_is_done_is_kept(
    start_server: Start, tmp_path: Path
) -> None:
    rows, partial, script = (
        write_rows(tmp_path / "rows.jsonl", 4),
        tmp_path / "partial",
        ScriptedChat(quality=strength),
    )
    server = start_server(follow(script))
    honest = server.behave
    server.behave = lambda body: Reply(status=500) if "about 2" in str(body) else honest(body)
    with pytest.raises(UnavailableError):
        await play(server, rows, partial)
    num_kept = len(partial.read_text().splitlines())
    assert num_kept == 2
    with partial.open("a") as file:
        file.write('{"cut off')
    server.behave = honest
    totals = await play(server, rows, partial)
    assert totals["num_resumed"] == 2
    made = [json.loads(line) for line in partial.read_text().splitlines()]
    assert [row["id"] for row in made] == ["p0", "p1", "p2", "p3"]
    for row in made:
        assert row["gold"] == "line 4 of strength 4"
        assert "candidates" not in row
        spec = parse_judge_spec(json.dumps(row["spec"]))
        assert spec.mode == "pairwise"
        assert spec.references[0] == "line 3 of strength 3"
        assert len(spec.references) == 2
        assert len(spec.constraints) == 1


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "not JSON"),
        ('{"id": "a", "candidates": ["x"]}', "no prompt row"),
        ('{"prompt": "a", "candidates": []}', "1 to 64"),
        ('{"prompt": "a", "candidates": ["", "x"]}', "none empty"),
        ('{"prompt": "a", "kind": "math", "candidates": ["x"]}', "kind 'math'"),
        ('{"prompt": "a", "candidates": ["x"], "spec": {"modes": 1}}', "does not know modes"),
    ],
)
def test_rows_that_cannot_play_are_refused_by_line(line: str, problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        read_contest(line, "rows.jsonl:7")
