"""Length windows and evaluation rounds of a run file: what there is, and what cannot work."""

from __future__ import annotations

from pathlib import Path

import pytest

from forklight_core.errors import ConfigError
from forklight_core.runfile import first_window, largest_window, load_run_file


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_windows_are_the_run_files_own_or_the_one_of_sampling(tmp_path: Path) -> None:
    fixed = load_run_file(write(tmp_path, "[sampling]\nmax_new_tokens = 64\n"))
    assert (first_window(fixed), largest_window(fixed)) == (64, 64)
    moving = load_run_file(write(tmp_path, '[length]\nwindows = ["1Ki", "2Ki"]\n'))
    assert (first_window(moving), largest_window(moving)) == (1024, 2048)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "[length]\nwindows = [100, 1000]\n[sampling]\ngroup_size = 4\n[buffer]\nmax_open_tokens = 3999",
            r"one group of the largest of length\.windows reserves 4000 tokens",
        ),
        (
            '[length]\nwindows = [512, 2048]\n[tools]\nnames = ["python"]\nmax_output_tokens = 512',
            r"must be below the first of length\.windows \(512\)",
        ),
        ("[evaluation]\npass_at = [1, 8]\nsamples_per_prompt = 4", "asks for pass@8"),
        ("[evaluation]\npass_at = [2, 2]\nsamples_per_prompt = 4", "names a k twice"),
        ("[evaluation]\npass_at = [0]", "greater than or equal to 1"),
        (
            "[evaluation]\nsamples_per_prompt = 2\ntemperature = 0",
            "greedy samples of a prompt are all the same",
        ),
        ("[evaluation]\nmax_share = 0", "max_share"),
        ("[evaluation]\nconfidence = 0.4", "confidence"),
        ("[evaluation]\nfinal_wait_s = -1", "final_wait_s"),
        ("[evaluation]\npass_threshold = 1.5", "pass_threshold"),
    ],
)
def test_windows_and_evaluations_that_cannot_work_are_refused(
    tmp_path: Path, text: str, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        load_run_file(write(tmp_path, text + "\n"))


def test_the_wait_for_the_last_round_may_be_nothing_or_have_a_unit(tmp_path: Path) -> None:
    for text, seconds in (('"5m"', 300.0), ("0", 0.0), ('"0s"', 0.0)):
        path = write(tmp_path, f"[evaluation]\nfinal_wait_s = {text}\n")
        assert load_run_file(path).evaluation.final_wait_s == seconds
