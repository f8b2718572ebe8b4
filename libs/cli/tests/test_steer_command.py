"""`forklight steer` as a person calls it: decisions with their numbers, alerts, JSON, other settings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from forklight_cli.commands.steer import steer
from forklight_core.errors import ConfigError, NotFoundError

RUN_FILE = """
[sampling]
max_new_tokens = 60
[recipe]
overlong_tokens = 8
[length]
windows = [40, 60]
patience = 10
min_steps = 12
"""


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Perplexity falls for 20 steps, then stays; from step 30 on responses repeat themselves."""
    lines = [
        {
            "step": step,
            "window": 40,
            "length_p99": 39.0,
            "perplexity": 1.2 + 0.01 * max(0, 20 - step),
            "tail_ratio": None,
            "repeated_share": 0.02 if step < 30 else 0.6,
        }
        for step in range(1, 41)
    ]
    path = tmp_path / "steps.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "run.toml").write_text(RUN_FILE)
    return path


def call(recording: Path, *words: str) -> Result:
    run_file = str(recording.with_name("run.toml"))
    return CliRunner().invoke(steer, [str(recording), "--run", run_file, *words], standalone_mode=False)


def test_steer_shows_each_change_of_mind_with_the_numbers_that_decided(recording: Path) -> None:
    done = call(recording)
    lines = done.output.splitlines()
    assert done.exception is None, done.output
    assert "step      1  window 40: too early to tell" in lines[0]
    assert "step     12  window 40: perplexity still moves, -6.6%" in lines[1]
    assert any(
        "window 40 -> 60 tokens: perplexity has converged" in line and "fills 98%" in line for line in lines
    )
    assert any("warning: repetition: " in line and "since step 30" in line for line in lines)
    assert lines[-1].startswith("40 steps, ")
    assert len(lines) < 15 < len(call(recording, "--all").output.splitlines())


def test_steer_when_settings_are_overridden_decides_otherwise(recording: Path) -> None:
    longer = call(recording, "--set", "length.patience=30", "--set", "collapse.repetition.limit=0.9")
    assert " -> " not in longer.output
    assert longer.output.splitlines()[-1] == "40 steps, 0 events, window 40 at the end"


def test_steer_as_json_is_an_object_a_step_with_evidence(recording: Path) -> None:
    steps = [json.loads(line) for line in call(recording, "--all", "--json").output.splitlines()]
    assert [step["step"] for step in steps] == list(range(1, 41))
    moved = [step for step in steps if step["move"] == "advance"]
    assert [(step["window"], step["reason"]) for step in moved] == [(60, "ready")]
    assert moved[0]["evidence"]["nearness"] == 39 / 40
    assert moved[0]["evidence"]["tail_ratio"] is None
    alerts = [event for step in steps for event in step["events"] if event["kind"] == "alert"]
    assert [(event["source"], event["evidence"]["since"]) for event in alerts] == [("repetition", 30)]


def test_steer_when_there_is_nothing_to_read_says_what_to_give(recording: Path) -> None:
    assert isinstance(call(recording.with_name("other.jsonl")).exception, NotFoundError)
    assert isinstance(call(recording, "--set", "length.windows=[60, 40]").exception, ConfigError)


def test_steer_needs_no_torch(recording: Path) -> None:
    program = "import sys; sys.modules['torch'] = None; from forklight_cli.main import main; main()"
    words = ["steer", str(recording), "--run", str(recording.with_name("run.toml"))]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "40 steps" in done.stdout
