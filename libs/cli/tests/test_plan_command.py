"""`forklight plan` as a person calls it: tables, JSON, run files, refusals, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from forklight_cli.commands.plan import plan
from forklight_cli.exits import ExitCode
from forklight_core.errors import ConfigError

RUN_FILES = Path(__file__).parents[1] / "forklight_cli" / "runfiles"


def call(words: str) -> Result:
    return CliRunner().invoke(plan, words.split(), standalone_mode=False)


def test_small_on_one_gpu_is_a_table_that_ends_in_the_verdict() -> None:
    done = call("--model small --gpus 1 --gpu h200")
    assert done.return_value is ExitCode.OK, done.output
    assert done.output.rstrip().endswith("fits")
    for part in ("weights, gradients, optimizer", "one decode step", "weights of a version", "cost"):
        assert part in done.output


def test_the_papers_run_is_compared_with_the_paper() -> None:
    done = call("--model minimax-m1 --gpus 512 --gpu h800")
    assert done.return_value is ExitCode.OK
    assert "x its days" in done.output and "not published" in done.output
    assert "all-to-all of experts" in done.output
    assert (
        "the paper" not in call("--model minimax-m1 --gpus 512 --gpu h200").output.partition("assumptions")[0]
    )


def test_what_does_not_fit_fails_with_what_to_change() -> None:
    done = call("--model minimax-m1 --gpus 512 --gpu h800 --zero 1")
    assert done.return_value is ExitCode.FAILED
    assert "does not fit: a trainer GPU needs" in done.output and "change: --zero 3" in done.output
    assert "cost" not in done.output.partition("assumptions")[0]


def test_json_holds_assumptions_with_their_options() -> None:
    done = call("--model small --gpus 1 --gpu h200 --assume copy_share=0.5 --price 4 --json")
    document = json.loads(done.output)
    listed = {each["name"]: each for each in document["assumptions"]}
    assert document["fits"] and listed["copy_share"]["value"] == 0.5
    assert listed["copy_share"]["source"] == "given"
    assert listed["copy_share"]["option"] == "--assume copy_share=VALUE"
    times = document["plan"]["times"]
    assert times["dollars"] == pytest.approx(4 * times["gpu_hours"])
    slower = json.loads(call("--model small --gpus 1 --gpu h200 --json").output)["plan"]["decode"]
    assert document["plan"]["decode"]["memory_s"] == pytest.approx(slower["memory_s"] * 0.89 / 0.5)


@pytest.mark.parametrize(
    ("name", "window", "key"),
    [
        ("mini", 4096, "sampling.max_new_tokens"),
        ("small", 16_384, "sampling.max_new_tokens"),
        ("minimax-m1", 81_920, "length.windows"),
    ],
)
def test_shipped_run_files_are_planned_for_their_largest_window(name: str, window: int, key: str) -> None:
    path = RUN_FILES / f"{name}.toml"
    done = call(f"--model {path} --gpus 512 --gpu h200 --json")
    document = json.loads(done.output)
    listed = {each["name"]: each for each in document["assumptions"]}
    assert (listed["window"]["value"], listed["window"]["source"]) == (window, f"{path}: {key}")
    assert document["fits"] is (done.return_value is ExitCode.OK)


def test_a_window_that_is_given_replaces_the_models() -> None:
    words = "--model small --gpus 1 --gpu h200 --json --window"
    short, long = (json.loads(call(f"{words} {window}").output) for window in (8192, 32_768))
    assert short["plan"]["lengths"]["p99"] < long["plan"]["lengths"]["p99"]
    assert short["trainer_gpu_bytes"] < long["trainer_gpu_bytes"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--model smal --gpus 1 --gpu h200", "did you mean small"),
        ("--model small --gpus 1 --gpu b9", "There are a100, h100, h200, h800"),
        ("--model small --gpus 8 --gpu h200 --expert-parallel 5", "does not divide 32 experts"),
        ("--model small --gpus 1 --gpu h200 --assume nothing=1", "nothing assumed is called"),
    ],
)
def test_wrong_input_is_refused_with_what_exists(words: str, reason: str) -> None:
    error = call(words).exception
    assert isinstance(error, ConfigError) and reason in str(error)


@pytest.mark.parametrize("word", ["copy_share", "copy_share=", "copy_share=much", "=1x"])
def test_assumptions_are_names_with_numbers(word: str) -> None:
    done = call(f"--model small --gpus 1 --gpu h200 --assume {word}")
    assert done.exception is not None and "write NAME=VALUE" in str(done.exception)
