"""The cold start as a process: killed and resumed without a trace, stopped in order, clear in its words."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from forklight_cli.cold_start import SftEvent, check_demonstrations, run_cold_start
from forklight_cli.cold_start_report import describe_duration, describe_event, is_worth_telling
from forklight_cli.run_folder import RunFolder, create_run_folder
from forklight_cli.up.run import prepare_model
from forklight_cli.up.signals import StopSignals
from forklight_core.errors import ConfigError, NotFoundError, UnavailableError
from forklight_core.runfile import RunFile, dump_run_file, load_run_file

NUM_STEPS = 10
EVERY = 3


def write_run_file(folder: Path, **sft: object) -> Path:
    """A nano run with a cold start of a second."""
    lines = [{"prompt": f"{i}+1=", "response": f"<think></think>\\boxed{{{i + 1}}}"} for i in range(6)]
    data = folder / "demonstrations.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = {
        "demonstrations": str(data),
        "holdout": str(data),
        "holdout_every_steps": 4,
        "steps": NUM_STEPS,
        "batch_size": 4,
        "learning_rate": 5e-3,
        "checkpoint_every_steps": EVERY,
    }
    run_file = RunFile.model_validate({"trainer": {"threads": 1}, "sft": given | sft})
    path = folder / "run.toml"
    path.write_text(dump_run_file(run_file))
    return path


SERVER = """
import json, os, sys
import forklight_trainer.sft.stage
from forklight_cli.cold_start import main
for line in sys.stdin:
    pipe, *arguments = json.loads(line)
    process = os.fork()
    if not process:
        os.dup2(os.open(pipe, os.O_WRONLY), 1)
        main(arguments)
        sys.exit()
    print(process, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


class Children:
    """Starts children that have imported everything already: a process of their own each, in no time."""

    def __init__(self, folder: Path) -> None:
        self._pipe = folder / "events"
        os.mkfifo(self._pipe)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.server = subprocess.Popen([sys.executable, "-c", SERVER], text=True, **pipes)  # type: ignore[call-overload]

    def run(self, *arguments: object, kill_at: int | None = None) -> list[SftEvent]:
        """Events of a child; killed without a word as soon as it has told a step."""
        self.server.stdin.write(json.dumps([str(self._pipe), *map(str, arguments)]) + "\n")
        self.server.stdin.flush()
        process = int(self.server.stdout.readline())
        events: list[SftEvent] = []
        with self._pipe.open() as told:
            for line in told:
                events.append(json.loads(line))
                if events[-1]["event"] == "step" and events[-1]["step"] == kill_at:
                    os.kill(process, signal.SIGKILL)
                    break
        assert int(self.server.stdout.readline()) == (0 if kill_at is None else -signal.SIGKILL)
        return events


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    made = Children(tmp_path)
    with made.server:
        yield made


def steps_of(events: list[SftEvent]) -> list[object]:
    return [event["step"] for event in events if event["event"] == "step"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_killed_at_any_time_and_resumed_it_gives_the_same_bytes(children: Children, tmp_path: Path) -> None:
    """Between two checkpoints, and while one is written: it is told of the step, then saves."""
    run_file = write_run_file(tmp_path)
    children.run(run_file, tmp_path / "whole")
    children.run(run_file, tmp_path / "cut", kill_at=EVERY + 2)
    assert not (tmp_path / "cut").exists()
    second = children.run(run_file, tmp_path / "cut", "--resume", kill_at=3 * EVERY)
    assert steps_of(second) == list(range(EVERY + 1, 3 * EVERY + 1))
    last = children.run(run_file, tmp_path / "cut", "--resume")
    assert steps_of(last)[0] in (2 * EVERY + 1, 3 * EVERY + 1)
    assert steps_of(last)[-1] == NUM_STEPS
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert [event["is_finished"] for event in last if event["event"] == "end"] == [True]
    assert {path.name for path in tmp_path.iterdir()} == {
        *("whole", "cut", "run.toml", "demonstrations.jsonl", "events")
    }


class Interrupted:
    """Asked to stop once so many steps were told; listens to what is announced."""

    def __init__(self, num_steps: int | None) -> None:
        self.said: list[str] = []
        self._num_steps = num_steps

    @property
    def requested(self) -> bool:
        told = [line for line in self.said if "cold start: step" in line and "loss" in line]
        return self._num_steps is not None and len(told) >= self._num_steps


def test_a_run_whose_cold_start_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    text = write_run_file(tmp_path, checkpoint_every_steps=0).read_text()
    folder = create_run_folder(tmp_path / "run", "a-run", text)
    cut, rest = Interrupted(3), Interrupted(None)
    before = prepare(folder, cut)
    assert before.model.path == ""
    assert not folder.cold_start.exists()
    after = prepare(folder, rest)
    assert after.model.path == str(folder.cold_start) == load_run_file(folder.run_file).model.path
    (begun,) = [line for line in rest.said if "goes on behind step" in line]
    step = int(begun.rpartition(" ")[2])
    assert 3 <= step < NUM_STEPS
    told = [line for line in rest.said if line.startswith("cold start: step") and "tokens/s" in line]
    assert told[0].startswith(f"cold start: step {step + 1}/{NUM_STEPS}")
    assert prepare(folder, rest) == after


def prepare(folder: RunFolder, stops: Interrupted) -> RunFile:
    return prepare_model(folder, as_signals(stops), stops.said.append)


def as_signals(stops: Interrupted) -> StopSignals:
    """Only whether it is asked to stop is ever looked at."""
    return stops  # type: ignore[return-value]


def test_errors_of_the_child_are_those_of_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_file, log = write_run_file(tmp_path), tmp_path / "sft.log"
    run_file.write_text("[sft]\nno_such_key = 1\n")
    with pytest.raises(ConfigError, match="unknown key sft.no_such_key"):
        check_demonstrations(run_file, log=log, progress=lambda event: None)
    write_run_file(tmp_path)
    monkeypatch.setenv("FORKLIGHT_DEVICE", "tpu")
    with pytest.raises(ConfigError, match="FORKLIGHT_DEVICE is 'tpu'"):
        check_demonstrations(run_file, log=log, progress=lambda event: None)
    with pytest.raises(NotFoundError, match="no run file at"):
        run_cold_start(tmp_path / "no.toml", tmp_path / "cut", log=log, progress=lambda event: None)


def test_a_child_that_dies_is_told_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_file, log, broken = write_run_file(tmp_path), tmp_path / "sft.log", tmp_path / "python"
    broken.write_text("#!/bin/sh\necho out of memory >&2\nexit 9\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(UnavailableError, match=r"ended with code 9; its log is .*sft.log\n    out of memory"):
        run_cold_start(run_file, tmp_path / "cut", log=log, progress=lambda event: None)


def forklight(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "forklight_cli", "sft", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_speaks_to_programs_and_its_report_to_people(tmp_path: Path) -> None:
    run_file = write_run_file(tmp_path, steps=3)
    options = ("--set", "recipe.overlong_tokens=16", "--set", "sampling.max_new_tokens=64")
    done = forklight(run_file, "--out", tmp_path / "cold", "--json", *options)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == [
        *("data", "start", "step", "step", "step", "holdout", "end")
    ]
    data, start, _, _, step, holdout, end = map(describe_event, events)
    found = "6 demonstrations, 72 tokens, 36 of them learned; the longest has 12"
    assert data.splitlines() == [
        f"{tmp_path}/demonstrations.jsonl: {found}",
        f"held out: {found}",
        "3 steps, 2.00 epochs; a step has about 4 demonstrations, 48 tokens, 1.0 packs",
    ]
    assert start == ""
    assert re.fullmatch(r"step 3/3  loss \d+\.\d{4}  \d+ tokens/s  0 s left", step)
    assert re.fullmatch(r"step 3: held-out loss ([\d.]+) \(perplexity [\d.]+\), lowest \1 at step 3", holdout)
    assert end == f"model: {tmp_path}/cold"


def test_the_command_wants_a_place_for_its_result(tmp_path: Path) -> None:
    done = forklight(write_run_file(tmp_path))
    assert (done.returncode, "--out DIR" in done.stderr) == (2, True)


def test_the_report_says_how_long_it_takes_as_people_do() -> None:
    assert [describe_duration(s) for s in (3.2, 119, 180, 9000)] == ["3 s", "119 s", "3 min", "2.5 h"]
    event = {"event": "step", "num_steps": 200}
    assert [step for step in range(1, 201) if is_worth_telling(event | {"step": step})] == list(
        range(20, 201, 20)
    )
