"""The length window: advances on convergence near the limit, holds in doubt, steps back in trouble."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forklight_core.errors import CheckpointError
from forklight_core.runfile.sections.steering import LengthSection
from forklight_trainer.steering.figures import StepFigures
from forklight_trainer.steering.trend import fit_trend
from forklight_trainer.steering.window import Decision, Move, Reason, WindowController
from forklight_trainer.steering.words import WHY, explain
from services.trainer.tests.steered_runs import noise

WINDOWS = (40, 48, 56, 64, 72, 80)
LENGTH = LengthSection(windows=WINDOWS)
QUICK = LengthSection(windows=(40, 60, 80), patience=4, min_steps=6, cool_down=10, back_patience=3)


def controller(length: LengthSection = LENGTH) -> WindowController:
    return WindowController(length, fixed_window=40)


def run_of(log_perplexities: Sequence[float], *, share: float = 0.95, **more: float) -> list[StepFigures]:
    """Steps whose lengths fill a share of a window of 100, with these perplexities."""
    return [
        StepFigures(
            step=place + 1,
            window=100,
            length_p99=100 * share,
            perplexity=math.exp(value),
            repeated_share=more.get("repeated_share", 0.02),
            tail_ratio=more.get("tail_ratio", 1.1),
        )
        for place, value in enumerate(log_perplexities)
    ]


def decide(run: Sequence[StepFigures], length: LengthSection = LENGTH) -> list[Decision]:
    steered = controller(length)
    return [steered.observe(figures) for figures in run]


def moves_of(decisions: Sequence[Decision]) -> list[tuple[int, Move]]:
    """Steps at which the window moved."""
    return [(place + 1, found.move) for place, found in enumerate(decisions) if found.move is not Move.HOLD]


@pytest.mark.parametrize("seed", range(10))
def test_window_when_perplexity_converges_advances_within_bounded_steps(seed: int) -> None:
    """log perplexity 0.3 + 0.3 exp(-t/60): its change over 40 steps is under 2% from step 199 + 40 on."""
    steps = np.arange(600)
    curve = 0.3 + 0.3 * np.exp(-steps / 60) + noise(np.random.default_rng(seed), 600, 0.008)
    moves = moves_of(decide(run_of(curve)))
    assert moves[0][1] is Move.ADVANCE
    assert 150 <= moves[0][0] <= 330


@pytest.mark.parametrize("seed", range(10))
def test_window_when_perplexity_falls_holds(seed: int) -> None:
    """Four percent in 40 steps, twice what is converged, all along; the same upwards."""
    steps = np.arange(800)
    trouble = noise(np.random.default_rng(seed), 800, 0.008)
    for slope in (-0.001, 0.001):
        decisions = decide(run_of(1.0 + slope * steps + trouble))
        assert not moves_of(decisions)
        assert {Reason.MOVING, Reason.UNSURE} >= {found.reason for found in decisions[LENGTH.min_steps :]}


@pytest.mark.parametrize("seed", range(10))
def test_window_when_perplexity_is_flat_and_noisy_goes_up_once_a_window_and_never_down(seed: int) -> None:
    chance = np.random.default_rng(seed)
    decisions = decide(run_of(0.3 + noise(chance, 1000, 0.008)))
    moves = moves_of(decisions)
    assert [move for _, move in moves] == [Move.ADVANCE] * 5
    assert decisions[-1].reason is Reason.LARGEST
    wild = decide(run_of(0.3 + noise(chance, 1000, 0.15)))
    assert not moves_of(wild)  # ten times the noise: nobody can tell, and that is what it says
    assert Reason.UNSURE in {found.reason for found in wild}


def test_window_when_updates_between_versions_make_a_saw_tooth_still_advances() -> None:
    steps = np.arange(300)
    curve = 0.3 + 0.01 * (steps % 16) / 16 + noise(np.random.default_rng(0), 300, 0.005)
    assert moves_of(decide(run_of(curve)))[0][0] <= 100


def test_window_when_lengths_are_short_holds_and_says_so() -> None:
    decisions = decide(run_of([0.3] * 200, share=0.85))
    assert {found.reason for found in decisions[LENGTH.min_steps :]} == {Reason.SHORT}
    assert "85% of it, 90% would be near" in explain(decisions[-1])


def test_window_when_one_step_in_three_is_short_looks_at_the_median() -> None:
    run = [*run_of([0.3] * 200)]
    short = run_of([0.3] * 200, share=0.2)
    run[::3] = short[::3]
    assert moves_of(decide(run))[0] == (50, Move.ADVANCE)


@pytest.mark.parametrize("trouble", [{"repeated_share": 0.5}, {"tail_ratio": 2.5}])
def test_window_when_trouble_lasts_steps_back_and_waits_twice_as_long_each_time(
    trouble: dict[str, float],
) -> None:
    good, bad = run_of([0.3])[0], run_of([0.3], **trouble)[0]
    steered, waits, backs = controller(QUICK), [], []
    for _ in range(4):
        waits.append(1)
        while steered.observe(good).move is Move.HOLD:
            waits[-1] += 1
        assert steered.window == 60
        backs.append(1)
        while steered.observe(bad).move is Move.HOLD:
            backs[-1] += 1
        assert steered.window == 40
    assert waits == [QUICK.min_steps, QUICK.cool_down, 2 * QUICK.cool_down, 4 * QUICK.cool_down]
    assert backs == [QUICK.min_steps] * 4  # back_patience is shorter


def test_window_when_trouble_is_shorter_than_patience_or_window_is_young_holds() -> None:
    good, bad = run_of([0.3])[0], run_of([0.3], repeated_share=0.5)[0]
    steered = controller(QUICK)
    for _ in range(6):
        steered.observe(good)
    assert steered.window == 60
    found = [steered.observe(bad) for _ in range(6)]
    assert [each.move for each in found] == [Move.HOLD] * 5 + [Move.STEP_BACK]  # min_steps first
    blips = [steered.observe(figures) for figures in [bad, bad, good] * 20]
    assert Move.STEP_BACK not in [each.move for each in blips]


def test_window_when_it_is_the_smallest_and_in_trouble_neither_moves_nor_advances() -> None:
    decisions = decide(run_of([0.3] * 100, repeated_share=0.5))
    assert {(found.move, found.reason) for found in decisions} == {(Move.HOLD, Reason.TROUBLED)}


def test_window_when_figures_are_missing_waits() -> None:
    empty = [StepFigures(step=place) for place in range(1, 200)]
    assert {found.reason for found in decide(empty)} == {Reason.YOUNG}
    holes = [figures if place % 2 else empty[place] for place, figures in enumerate(run_of([0.3] * 199))]
    assert moves_of(decide(holes))[0] == (80, Move.ADVANCE)  # forty that measured something


def test_window_when_there_is_one_never_moves() -> None:
    for length in (LengthSection(), LengthSection(windows=(40,))):
        decisions = decide(run_of([0.3] * 100, repeated_share=0.9), length)
        assert {(found.window, found.reason) for found in decisions} == {(40, Reason.FIXED)}


@st.composite
def random_walks(draw: st.DrawFn) -> tuple[LengthSection, list[StepFigures]]:
    """Any settings, and figures that wander, leap and vanish."""
    length = LengthSection(
        windows=(40, 60, 80),
        patience=draw(st.integers(4, 8)),
        min_steps=draw(st.integers(1, 20)),
        back_patience=draw(st.integers(1, 4)),
        cool_down=draw(st.integers(0, 20)),
        converged=draw(st.sampled_from([0.02, 0.5, 1.0])),
    )
    chance = np.random.default_rng(draw(st.integers(0, 2**32)))
    walk = 0.3 + np.abs(np.cumsum(chance.normal(0, draw(st.sampled_from([0.001, 0.05])), 120)))
    calm = draw(st.floats(0.2, 1.0))
    run = [
        StepFigures(
            step=place + 1,
            window=100,
            length_p99=float(chance.choice([95.0, 95.0, 95.0, 60.0, math.nan])),
            perplexity=math.exp(walk[place]) if chance.random() < 0.95 else math.nan,
            repeated_share=0.02 if chance.random() < calm else float(chance.choice([0.9, math.nan])),
            tail_ratio=1.0 if chance.random() < calm else 5.0,
        )
        for place in range(120)
    ]
    return length, run


@settings(max_examples=150, deadline=None)
@given(random_walks())
def test_window_whatever_happens_moves_one_place_at_most_once_in_min_steps(
    case: tuple[LengthSection, list[StepFigures]],
) -> None:
    length, run = case
    decisions = decide(run, length)
    steps = [0, *(step for step, _ in moves_of(decisions))]
    assert all(after - before >= length.min_steps for before, after in pairwise(steps))
    for found in decisions:
        before, after = (length.windows.index(window) for window in (found.before, found.window))
        assert after - before == {Move.HOLD: 0, Move.ADVANCE: 1, Move.STEP_BACK: -1}[found.move]
        assert explain(found)


@settings(max_examples=60, deadline=None)
@given(random_walks(), st.integers(0, 120))
def test_window_when_restored_from_json_at_any_step_decides_the_same(
    case: tuple[LengthSection, list[StepFigures]], split: int
) -> None:
    length, run = case
    before = controller(length)
    for figures in run[:split]:
        before.observe(figures)
    after = controller(length)
    after.restore(json.loads(json.dumps(before.state(), allow_nan=False)))
    assert after.state() == before.state()
    # Evidence may hold NaN, which equals nothing: compare what it prints.
    assert [repr(before.observe(f)) for f in run[split:]] == [repr(after.observe(f)) for f in run[split:]]


def test_window_when_the_list_was_edited_is_the_next_smaller_one_and_young() -> None:
    steered = controller(QUICK)
    for figures in run_of([0.3] * 6):
        steered.observe(figures)
    assert steered.window == 60
    edited = controller(QUICK.model_copy(update={"windows": (40, 50, 70)}))
    edited.restore(steered.state())
    assert (edited.window, edited.state()["num_steps"]) == (50, 0)
    larger = controller(QUICK.model_copy(update={"windows": (64, 128)}))
    larger.restore(steered.state())
    assert larger.window == 64


def test_restore_when_the_state_is_not_ours_says_what_is_wrong() -> None:
    with pytest.raises(CheckpointError, match="holds 'soon' as num_steps"):
        controller().restore({"window": 40, "num_steps": "soon"})


def test_every_reason_has_words() -> None:
    assert set(WHY) == set(Reason)


def test_trend_of_a_noisy_line_is_the_textbook_regression() -> None:
    """Slope and standard error as in the closed formulas, in float64; here neighbours are uncorrelated."""
    y = np.array([1.0, 1.2, 0.9, 1.4, 1.1, 1.5])
    x = np.arange(6.0)
    slope = np.sum((x - 2.5) * (y - y.mean())) / np.sum((x - 2.5) ** 2)
    residuals = y - (y.mean() + slope * (x - 2.5))
    error = math.sqrt(np.sum(residuals**2) / 4 / np.sum((x - 2.5) ** 2))
    assert np.sum(residuals[1:] * residuals[:-1]) < 0  # so nothing widens the error
    found = fit_trend(y.tolist())
    assert found.change == pytest.approx(5 * slope, rel=1e-12)
    assert found.error == pytest.approx(5 * error, rel=1e-12)
    flat = fit_trend([0.3] * 10)
    assert (flat.change, flat.error) == pytest.approx((0.0, 0.0), abs=1e-12)


def test_trend_error_when_noise_lasts_several_steps_covers_what_it_should() -> None:
    """With neighbours correlated by 0.6 the plain error is half the real one; the widened one is near."""
    chance = np.random.default_rng(1)
    changes, errors = [], []
    for _ in range(600):
        values = np.zeros(60)
        for place in range(1, 60):
            values[place] = 0.6 * values[place - 1] + chance.normal()
        found = fit_trend(values[20:].tolist())
        changes.append(found.change)
        errors.append(found.error)
    assert float(np.median(errors)) == pytest.approx(float(np.std(changes)), rel=0.3)
