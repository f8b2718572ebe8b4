"""The run files that `forklight config new` prints say what their comments say."""

from __future__ import annotations

import tomllib

from forklight_cli.commands.config import RUN_FILES, SHIPPED
from forklight_core.runfile import RunFile, first_window, largest_window, load_run_file
from forklight_trainer.loss.schedules import RecipeAt, schedule_of, settings_at
from forklight_trainer.recipe import check_recipe
from forklight_trainer.steering.steering import Steering

KI = 1024
PAPERS_WINDOWS = tuple(size * KI for size in (40, 48, 56, 64, 72, 80))


def minimax() -> RunFile:
    return load_run_file(RUN_FILES / SHIPPED["minimax-m1"])


def test_minimax_m1_goes_through_the_papers_six_windows() -> None:
    run_file = minimax()
    assert run_file.length.windows == PAPERS_WINDOWS
    assert (first_window(run_file), largest_window(run_file)) == (40 * KI, 80 * KI)
    assert Steering(run_file).window == 40 * KI
    assert run_file.trainer.pack_tokens > 80 * KI
    assert check_recipe(run_file) == []


def test_minimax_m1_tightens_in_the_late_windows_and_never_before() -> None:
    schedule = schedule_of(minimax())
    held: dict[int, RecipeAt] = {
        window: settings_at(schedule, step=500, window=window) for window in PAPERS_WINDOWS
    }
    early, late = held[40 * KI], held[80 * KI]
    assert [held[size * KI] for size in (48, 56)] == [early, early]
    assert [held[size * KI] for size in (64, 72)] == [late, late]
    assert early.eps_high is not None and late.eps_high is not None and late.eps_high < early.eps_high
    assert 1.0 + late.eps_high >= 4.0  # the lower end of what was found to work alike
    assert late.grad_clip < early.grad_clip
    assert (early.normalization, early.token_share) == ("token", 1.0)
    assert (late.normalization, late.token_share) == ("combined", 0.5)


def test_every_shipped_file_says_each_thing_once_and_is_the_papers_recipe() -> None:
    for name in SHIPPED.values():
        path = RUN_FILES / name
        given = tomllib.loads(path.read_text())
        assert not ("length" in given and "max_new_tokens" in given["sampling"]), name
        assert check_recipe(load_run_file(path, ["prompts.holdout=held.jsonl"])) == [], name
