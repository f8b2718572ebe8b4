"""Which values hold at a step: order, lines, windows, warm-up; and that a step takes them and says so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from forklight_core.runfile import RunFile
from forklight_model.model import HybridModel
from forklight_trainer.adapters.torch_plain import OptimizerSettings, TorchEngine
from forklight_trainer.batches.fetch import fetch_batch
from forklight_trainer.loss.schedules import RecipeAt, Schedule, schedule_of, settings_at, settled_stages
from forklight_trainer.steps.records import build_record
from forklight_trainer.steps.step import PolicyState, StepOutcome, step_settings, train_step

Maker = Any
WINDOWS = (40960, 49152, 57344)


def schedule(*entries: dict[str, object], **sections: dict[str, object]) -> Schedule:
    recipe = sections.pop("recipe", {}) | {"schedule": list(entries)}
    return schedule_of(RunFile.model_validate({**sections, "recipe": recipe}))


def at(plan: Schedule, step: int, window: int = 40960) -> RecipeAt:
    return settings_at(plan, step=step, window=window)


def test_settings_when_nothing_is_scheduled_are_the_run_files() -> None:
    found = at(schedule(), 7)
    expected = RecipeAt(
        eps_high=4.0, grad_clip=1.0, normalization="token", combined_token_share=0.5, learning_rate=1e-6
    )
    assert found == expected
    assert found.token_share == 1.0


def test_settings_when_later_entries_begin_override_only_what_they_give() -> None:
    plan = schedule(
        {"from_step": 10, "eps_high": 3.0, "grad_clip": 0.5},
        {"from_step": 20, "eps_high": 2.0, "normalization": "combined", "learning_rate": 5e-7},
    )
    found = [(at(plan, step).eps_high, at(plan, step).grad_clip) for step in (9, 10, 19, 20, 999)]
    assert found == [(4.0, 1.0), (3.0, 0.5), (3.0, 0.5), (2.0, 0.5), (2.0, 0.5)]
    assert [at(plan, step).token_share for step in (19, 20)] == [1.0, 0.5]
    assert [at(plan, step).learning_rate for step in (19, 20)] == [1e-6, 5e-7]


def test_settings_when_the_window_moves_follow_it_forth_and_back() -> None:
    plan = schedule({"from_window": "48Ki", "eps_high": 2.0}, {"from_window": "56Ki", "grad_clip": 0.25})
    found = [(at(plan, 5, window).eps_high, at(plan, 5, window).grad_clip) for window in WINDOWS]
    assert found == [(4.0, 1.0), (2.0, 1.0), (2.0, 0.25)]
    assert at(plan, 6, 40960) == at(plan, 5, 40960)


def test_settings_when_steps_and_windows_alternate_apply_in_the_files_order() -> None:
    plan = schedule({"from_window": "48Ki", "eps_high": 1.0}, {"from_step": 10, "eps_high": 2.0})
    found = {(s, w): at(plan, s, w).eps_high for s in (9, 10) for w in WINDOWS[:2]}
    assert found == {(9, 40960): 4.0, (9, 49152): 1.0, (10, 40960): 2.0, (10, 49152): 2.0}


def test_settings_when_a_line_is_asked_for_go_along_it() -> None:
    plan = schedule({"from_step": 11, "over_steps": 4, "eps_high": 2.0, "grad_clip": 0.2})
    assert [at(plan, step).eps_high for step in range(10, 17)] == [4.0, 3.5, 3.0, 2.5, 2.0, 2.0, 2.0]
    found = [at(plan, step).grad_clip for step in range(10, 16)]
    assert found == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2], abs=1e-15)
    assert found[-1] == 0.2  # the end of a line is the value itself, and no sum that rounds


def test_settings_when_a_line_begins_inside_another_start_from_where_that_one_is() -> None:
    plan = schedule(
        {"from_step": 1, "over_steps": 8, "eps_high": 2.0}, {"from_step": 5, "over_steps": 2, "eps_high": 1.0}
    )
    first = [4.0 - 0.25 * step for step in range(1, 9)]
    expected = [*first[:4], (first[4] + 1.0) / 2.0, 1.0, 1.0, 1.0]
    assert [at(plan, step).eps_high for step in range(1, 9)] == pytest.approx(expected)


@pytest.mark.parametrize(("before", "first"), [("token", 0.9), ("sample", 0.1)])
def test_settings_when_a_share_goes_in_a_line_begin_at_the_former_normalization(
    before: str, first: float
) -> None:
    entry = {"from_step": 3, "over_steps": 5, "normalization": "combined", "combined_token_share": 0.5}
    plan = schedule(entry, recipe={"normalization": before})
    assert at(plan, 2).normalization == before
    assert at(plan, 3).token_share == pytest.approx(first)
    assert at(plan, 7).token_share == 0.5


def test_settings_when_warming_up_scale_the_rate_that_holds() -> None:
    trainer = {"learning_rate": 1e-3, "warmup_steps": 4}
    plan = schedule({"from_step": 3, "learning_rate": 5e-4}, trainer=trainer)
    rates = [at(plan, step).learning_rate for step in (1, 2, 3, 4, 100)]
    assert rates == pytest.approx([2.5e-4, 5e-4, 3.75e-4, 5e-4, 5e-4])


def test_settings_when_weights_are_not_clipped_have_no_ceiling() -> None:
    masks = {"algorithm": "dapo", "mask_eps_low": 0.2, "mask_eps_high": 0.28}
    plan = schedule({"from_step": 2, "eps_high": 1.0, "grad_clip": 0.5}, recipe=masks)
    assert (at(plan, 5).eps_high, at(plan, 5).grad_clip) == (None, 0.5)


def test_settled_stages_when_lines_are_long_are_at_their_ends() -> None:
    plan = schedule(
        {"from_step": 5, "over_steps": 100, "eps_high": 2.0}, {"from_window": "80Ki", "grad_clip": 0.5}
    )
    assert [(s.eps_high, s.grad_clip) for s in settled_stages(plan)] == [(4.0, 1.0), (2.0, 1.0), (2.0, 0.5)]


def run_step(model: HybridModel, maker: Maker, *, step: int, window: int | None) -> StepOutcome:
    run_file = RunFile.model_validate(
        {
            "sampling": {"max_new_tokens": 64},
            "trainer": {"learning_rate": 1e-3, "pack_tokens": 128},
            "recipe": {
                "schedule": [
                    {"from_step": 2, "eps_high": 1e-4, "learning_rate": 2e-3},
                    {"from_window": 96, "normalization": "sample", "grad_clip": 1e-3},
                ]
            },
        }
    )
    batch = fetch_batch(maker.batch(step), maker.blobs, "test-run").batch
    assert batch is not None
    policy = PolicyState(
        version=0,
        is_published=False,
        contract=batch.samples[0].contract,
        find_version=lambda version: None,
        window=window,
    )
    engine = TorchEngine(model, OptimizerSettings(betas=(0.9, 0.95), eps=1e-15, weight_decay=0.0))
    return train_step(engine, batch, step_settings(run_file), policy)


def test_train_step_when_a_stage_holds_computes_with_it_and_records_it(
    make_model: Callable[[int], HybridModel], maker: Maker
) -> None:
    # Weights of another seed than the samples': ratios lie on both sides of 1.
    first = run_step(make_model(5), maker, step=1, window=None)
    second = run_step(make_model(5), maker, step=2, window=None)
    third = run_step(make_model(5), maker, step=2, window=96)
    assert first.tokens.clip_share_high < 0.05
    assert second.tokens.clip_share_high > 0.3  # a ceiling of 1.0001 is met by every ratio above 1
    assert third.tokens.loss != pytest.approx(second.tokens.loss, rel=1e-4)
    found = []
    for outcome, step, window in ((first, 1, 64), (second, 2, 64), (third, 2, 96)):
        line = build_record(outcome, step=step, version=0, window=window, seconds={})
        written = (line.eps_high, line.grad_clip, line.normalization, line.token_share, line.learning_rate)
        found.append((line.window, *written))
    assert found == [
        (64, 4.0, 1.0, "token", 1.0, 1e-3),
        (64, 1e-4, 1.0, "token", 1.0, 2e-3),
        (96, 1e-4, 1e-3, "sample", 0.0, 2e-3),
    ]


def test_schedules_when_imported_do_not_load_torch() -> None:
    code = "import sys, forklight_trainer.loss.schedules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
