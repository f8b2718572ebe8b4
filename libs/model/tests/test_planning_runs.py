"""Whole plans: against what was measured on an H200, against the paper's run, and what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from forklight_core.errors import ConfigError
from forklight_model.planning.assumptions import PAPER_DAYS, PAPER_DOLLARS, Rates
from forklight_model.planning.chosen import choose_run, with_assumptions
from forklight_model.planning.hardware import GPUS
from forklight_model.planning.layout import Recompute, TrainLayout
from forklight_model.planning.plan import Plan, make_plan
from forklight_model.planning.request import Request
from forklight_model.planning.rollout import plan_decode_step
from forklight_model.planning.training_time import Pack, plan_train_time
from forklight_model.planning.verdict import find_misfits, list_gaps
from forklight_model.sizes import SIZES

SMALL, H200 = SIZES["small"], GPUS["h200"]
WITHIN = 0.2


def request_of(model: str, gpu: str, gpus: int, **options: int | float | None) -> Request:
    return replace(choose_run(model, GPUS[gpu], gpus), **options)


def plan_of(model: str, gpu: str, gpus: int, **options: int | float | None) -> Plan:
    return make_plan(request_of(model, gpu, gpus, **options))


@pytest.mark.parametrize(("batch", "length", "measured"), [(1, 32_768, 88_700), (8, 4096, 113_600)])
def test_small_trains_as_fast_as_measured(batch: int, length: int, measured: float) -> None:
    layout = TrainLayout(gpus=1, recompute=Recompute(keeps_experts=True, num_whole_layers=4))
    pack = Pack(tokens=batch * length, context=length / 2)
    time = plan_train_time(SMALL, H200, layout, pack, Rates())
    assert time.tokens_per_s == pytest.approx(measured, rel=WITHIN)


@pytest.mark.parametrize(
    ("batch", "context", "measured_ms"),
    [(1, 1024, 0.96), (64, 2048, 2.23), (64, 16_384, 3.08), (64, 81_920, 6.81), (256, 1024, 3.45)],
)
def test_small_decodes_as_fast_as_measured(batch: int, context: int, measured_ms: float) -> None:
    step = plan_decode_step(SMALL, H200, batch=batch, context=context, rates=Rates())
    assert step.total_s * 1e3 == pytest.approx(measured_ms, rel=WITHIN)


def test_the_plan_of_small_shows_what_the_benchmark_measures() -> None:
    plan = plan_of("small", "h200", 1)
    assert plan.fits and plan.rollout.is_shared
    assert plan.whole_pack.tokens_per_s == pytest.approx(88_700, rel=WITHIN)
    assert plan.train_gpu_bytes <= plan.limit_bytes


def test_the_papers_run_comes_out_in_its_order_of_magnitude() -> None:
    plan = plan_of("minimax-m1", "h800", 512)
    assert plan.fits and plan.times is not None
    half_an_order = 10**0.5
    assert PAPER_DAYS / half_an_order < plan.times.run_s / 86_400 < PAPER_DAYS * half_an_order
    assert PAPER_DOLLARS / half_an_order < plan.times.dollars < PAPER_DOLLARS * half_an_order
    assert 0.15 < plan.train_time.utilisation < 0.25
    assert plan.train.gpus + plan.rollout.gpus <= 512


def test_plans_say_what_is_not_built_when_they_need_it() -> None:
    gaps = "\n".join(list_gaps(plan_of("minimax-m1", "h800", 512)))
    assert "it ran on 4 at most" in gaps and "key heads" in gaps
    assert not list_gaps(plan_of("small", "h200", 1))


@pytest.mark.parametrize(
    ("options", "what", "change"),
    [
        ({"zero": 1}, "weights, gradients, optimizer", "--zero 3"),
        ({"rollout_pod": 8}, "pods of 8", "leave out --rollout-pod"),
        ({"rollout_share": 0.0}, "beside the trainer's", "leave out --rollout-share"),
    ],
)
def test_what_does_not_fit_is_named_with_a_change_that_helps(
    options: Mapping[str, int | float], what: str, change: str
) -> None:
    plan = plan_of("minimax-m1", "h800", 512, **options)
    assert not plan.fits and plan.times is None
    misfits = find_misfits(plan)
    assert any(what in misfit.what and change in misfit.changes for misfit in misfits), misfits


def test_a_change_of_gpus_that_is_named_makes_it_fit() -> None:
    misfits = find_misfits(plan_of("minimax-m1", "h800", 64))
    (gpus,) = [each for each in misfits[0].changes if each.startswith("--gpus")]
    assert make_plan(request_of("minimax-m1", "h800", int(gpus.split()[1]))).fits


def test_nothing_is_wrong_with_a_plan_that_fits() -> None:
    assert find_misfits(plan_of("small", "h200", 1)) == []


@pytest.mark.parametrize("gpus", [2, 3, 7, 8, 64])
def test_every_gpu_has_at_most_one_task_and_fits(gpus: int) -> None:
    plan = plan_of("small", "h100", gpus)
    assert plan.fits
    assert plan.train_gpu_bytes <= plan.limit_bytes and plan.pod_memory.total <= plan.limit_bytes
    assert plan.train.gpus + (0 if plan.rollout.is_shared else plan.rollout.gpus) <= gpus
    assert plan.train.divides


def test_more_gpus_never_take_longer() -> None:
    plans = [plan_of("small", "h200", gpus) for gpus in (1, 2, 4, 8, 16, 64)]
    seconds = [plan.times.run_s for plan in plans if plan.times]
    assert len(seconds) == len(plans) and seconds == sorted(seconds, reverse=True)


def test_longer_windows_never_leave_more_room() -> None:
    request = request_of("small", "h200", 1)
    windows = [with_assumptions(request, {"window": each}, "test") for each in (4096, 16_384, 65_536)]
    plans = [make_plan(each) for each in windows]
    rooms = [plan.pod_memory.num_longest for plan in plans]
    assert rooms == sorted(rooms, reverse=True)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"expert_parallel": 3}, "does not divide 32 experts"),
        ({"sequence_parallel": 16}, "does not divide 4 key heads"),
        ({"rollout_pod": 3}, "does not divide 16 num_attention_heads"),
        ({"rollout_share": 0.01}, "--gpus 8 cannot be divided"),
        ({"rollout_share": 1.0}, "below 1"),
        ({"expert_parallel": 32}, "--expert-parallel 32: change one of them"),
        ({"gpus": 0}, "at least 1"),
    ],
)
def test_combinations_that_cannot_be_are_refused(options: Mapping[str, int | float], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        plan_of("small", "h200", 8, **options) if "gpus" not in options else plan_of("small", "h200", 0)


def test_windows_beyond_the_models_positions_are_refused() -> None:
    with pytest.raises(ConfigError, match="positions"):
        with_assumptions(request_of("nano", "h200", 1), {"window": 1e6}, "test")


def test_unknown_models_are_refused_with_what_exists() -> None:
    with pytest.raises(ConfigError, match="did you mean small.*nano, mini, small, minimax-m1, or name a run"):
        choose_run("smal", H200, 1)
