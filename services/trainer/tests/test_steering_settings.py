"""[length] and [collapse] of the run file: the paper's windows load, and what cannot work is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from forklight_core.errors import ConfigError
from forklight_core.runfile import dump_run_file, load_run_file
from forklight_trainer.recipe import check_recipe
from forklight_trainer.steering.detectors import build_detectors

PAPER = """
[sampling]
max_new_tokens = "40Ki"
[length]
windows = ["40Ki", "48Ki", "56Ki", "64Ki", "72Ki", "80Ki"]
[trainer]
pack_tokens = "96Ki"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_the_papers_windows_load_and_come_back_from_a_dump(tmp_path: Path) -> None:
    run_file = load_run_file(write(tmp_path, PAPER))
    assert run_file.length.windows == (40960, 49152, 57344, 65536, 73728, 81920)
    assert check_recipe(run_file) == []
    assert load_run_file(write(tmp_path, dump_run_file(run_file))) == run_file


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ('windows = ["48Ki", "40Ki"]', "windows must rise"),
        ('windows = ["40Ki", "40Ki"]', "windows must rise"),
        ('windows = ["40k", 0]', "greater than or equal to 1"),
        ("near = 1.5", "length.near"),
        ("patience = 3", "length.patience"),
        ("[collapse.entropy]\naction = 'stop'", "collapse.entropy.action"),
        ("[collapse.entropy]\nfloors = 1", "did you mean collapse.entropy.floor"),
        ("[collapse.tail]\nlimit = 0.5", "collapse.tail.limit"),
        ("[collapse.tail]\naction = 'roll_back'", "goes back 24 steps, and checkpoints may reach only 2"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_reason(
    tmp_path: Path, change: str, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_run_file(write(tmp_path, f"[length]\n{change}\n"))


def test_roll_back_when_checkpoints_reach_far_enough_is_allowed(tmp_path: Path) -> None:
    for kept in ("keep_every_steps = 20", "keep_last = 25"):
        text = f"[collapse.tail]\naction = 'roll_back'\n[checkpoints]\n{kept}\n"
        assert load_run_file(write(tmp_path, text)).collapse.tail.action == "roll_back"


def test_largest_window_when_it_does_not_fit_a_pack_is_refused(tmp_path: Path) -> None:
    run_file = load_run_file(write(tmp_path, PAPER), ["trainer.pack_tokens=80Ki"])
    with pytest.raises(ConfigError, match="81920 and a prompt do not fit"):
        check_recipe(run_file)


def test_alarms_that_are_off_are_not_built(tmp_path: Path) -> None:
    text = "[collapse.entropy]\naction = 'off'\n[collapse.gradient]\naction = 'off'\n"
    names = [each.name for each in build_detectors(load_run_file(write(tmp_path, text)))]
    assert names == ["length_gap", "tail", "repetition", "correlation"]
