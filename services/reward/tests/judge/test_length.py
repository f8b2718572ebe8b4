"""The length monitor against judges whose bias is known: it rings when it must, and only then."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from forklight_core.errors import InvalidInputError
from forklight_reward.judge.five_grades import FiveGrades
from forklight_reward.judge.length_fit import Window, fit_length, longer_preferred
from forklight_reward.judge.length_monitor import Drift, LengthMonitor, MonitorOptions
from forklight_reward.judge.padding import MEAN_DOUBLINGS, PaddingReport, pad, probe_padding
from forklight_reward.judge.prompt import Question, Variant
from forklight_reward.judge.recalibration import PATIENCE, Level, Recalibrator, nearest_reference
from forklight_reward.judge.scripted import Bias, ScriptedChat, grades_of

NUM_GROUPS, GROUP_SIZE = 64, 16
LONG_RUN = 400


@dataclass(slots=True, kw_only=True)
class World:
    """A run whose answers differ in length and correctness; `right_longer` is in doublings."""

    bias: Bias
    chance: np.random.Generator
    right_longer: float = 0.0

    def window(self) -> Window:
        num = NUM_GROUPS * GROUP_SIZE
        groups = np.repeat(np.arange(NUM_GROUPS), GROUP_SIZE)
        rate = self.chance.uniform(0.2, 0.8, NUM_GROUPS)[groups]
        correct = (self.chance.random(num) < rate).astype(np.float64)
        topic = self.chance.normal(0.0, 1.0, NUM_GROUPS)[groups]
        doublings = self.chance.normal(0.0, 0.7, num) + topic + self.right_longer * correct
        quality = 0.25 + 0.5 * correct
        grades = grades_of(self.bias, quality, doublings, self.chance)
        return Window(
            scores_N=(grades - 1) / 4,
            lengths_N=doublings,
            correct_N=correct,
            groups_N=groups.astype(np.int64),
        )


def world(length: float, *, seed: int = 1, right_longer: float = 0.0) -> World:
    bias = Bias(length=length, noise=0.15)
    return World(bias=bias, chance=np.random.default_rng(seed), right_longer=right_longer)


def first_alarm(made: World, most_windows: int) -> int | None:
    monitor = LengthMonitor()
    for number in range(1, most_windows + 1):
        if monitor.add_window(fit_length(made.window())).is_alarm:
            return number
    return None


@pytest.mark.parametrize("seed", range(10))
def test_alarm_rings_within_three_windows_at_a_tenth_a_doubling(seed: int) -> None:
    found = first_alarm(world(0.1, seed=seed), 3)
    assert found is not None


@pytest.mark.parametrize("right_longer", [0.0, 0.5, 1.0])
def test_alarm_is_silent_for_400_windows_when_the_judge_is_honest(right_longer: float) -> None:
    assert first_alarm(world(0.0, seed=3, right_longer=right_longer), LONG_RUN) is None


def test_slope_at_matched_correctness_is_not_fooled_where_the_plain_one_is() -> None:
    made = world(0.0, seed=4, right_longer=0.5)
    windows = [made.window() for _ in range(20)]
    blind = [
        fit_length(
            Window(
                scores_N=each.scores_N,
                lengths_N=each.lengths_N,
                correct_N=np.zeros_like(each.correct_N),
                groups_N=each.groups_N,
            )
        )
        for each in windows
    ]
    matched = [fit_length(each) for each in windows]
    assert abs(np.mean([fit.beta for fit in matched if fit])) < 0.005
    assert np.mean([fit.beta for fit in blind if fit]) > 0.05
    assert np.mean([fit.gamma for fit in matched if fit]) == pytest.approx(0.5, abs=0.02)


def test_clustered_error_tells_how_far_the_slope_scatters() -> None:
    made = world(0.05, seed=5)
    fits = [fit for fit in (fit_length(made.window()) for _ in range(200)) if fit]
    scatter = float(np.std([fit.beta for fit in fits]))
    assert np.mean([fit.error for fit in fits]) == pytest.approx(scatter, rel=0.2)


def test_clustered_error_grows_when_errors_of_a_group_share_a_slope() -> None:
    """Groups whose own slopes differ: as many samples tell less than they seem to."""
    chance = np.random.default_rng(6)
    groups = np.repeat(np.arange(NUM_GROUPS), GROUP_SIZE).astype(np.int64)
    lengths = chance.normal(0.0, 1.0, len(groups))
    own = chance.normal(0.0, 0.2, NUM_GROUPS)[groups]
    none = np.zeros(len(groups))
    fits = [
        fit_length(Window(scores_N=scores, lengths_N=lengths, correct_N=none, groups_N=groups))
        for scores in (own * lengths, chance.normal(0.0, 0.2, len(groups)))
    ]
    assert fits[0] is not None
    assert fits[1] is not None
    assert fits[0].error > 2 * fits[1].error
    assert fits[0].gamma == 0.0


def test_longer_is_preferred_only_by_a_biased_judge() -> None:
    honest, biased = (longer_preferred(world(length, seed=7).window()) for length in (0.0, 0.2))
    assert honest is not None
    assert biased is not None
    assert abs(honest) < 0.03
    assert biased > 0.1


def test_windows_that_tell_nothing_have_no_fit() -> None:
    groups = np.repeat(np.arange(NUM_GROUPS), 4).astype(np.int64)
    flat, varied = np.ones(len(groups)), np.random.default_rng(1).normal(size=len(groups))
    for scores, lengths in ((flat, varied), (varied, flat)):
        assert fit_length(Window(scores_N=scores, lengths_N=lengths, correct_N=flat, groups_N=groups)) is None
    assert longer_preferred(Window(scores_N=varied, lengths_N=flat, correct_N=flat, groups_N=groups)) is None
    with pytest.raises(InvalidInputError):
        Window(scores_N=flat, lengths_N=flat[1:], correct_N=flat, groups_N=groups)
    silent = LengthMonitor().add_window(None)
    assert not silent.is_alarm


def test_alarm_clears_after_five_quiet_windows_and_not_before() -> None:
    monitor, biased, honest = LengthMonitor(), world(0.2, seed=8), world(0.0, seed=9)
    for _ in range(50):
        monitor.add_window(fit_length(biased.window()))
    assert monitor.is_ringing
    reports = [monitor.add_window(fit_length(honest.window())) for _ in range(20)]
    first_quiet = next(number for number, each in enumerate(reports) if each.cusum < 1)
    assert [each.is_alarm for each in reports].index(False) == first_quiet + 4


def test_growth_without_success_is_padding_and_growth_with_success_is_not() -> None:
    def is_padding(growth: float, gain: float) -> bool:
        drift = Drift(MonitorOptions())
        for step in range(150):
            drift.add(1000 * (1 + growth) ** (step / 50), 0.4 + gain * step / 50)
        return drift.is_padding

    assert is_padding(0.2, 0.0)
    assert not is_padding(0.2, 0.03)
    assert not is_padding(0.05, 0.0)
    assert not is_padding(-0.2, -0.1)


QUESTIONS = [
    Question(task=f"t{number}", reference="r", candidate=f"answer {number} " + "word " * (5 + number % 7))
    for number in range(64)
]


async def test_padding_probe_finds_what_length_alone_gains() -> None:
    def quality(candidate: str, reference: str) -> float:
        return 0.5

    reports = [
        await probe_padding(
            FiveGrades(ScriptedChat(Bias(length=length, noise=0.1), quality)), QUESTIONS, timeout_s=30
        )
        for length in (0.0, 0.15)
    ]
    honest, biased = reports
    assert honest is not None
    assert biased is not None
    assert honest.lower95 < 0.05
    assert abs(honest.gain) < 0.03
    assert biased.lower95 > 0.05
    monitor = LengthMonitor()
    assert not monitor.add_padding(honest).is_alarm
    assert monitor.add_padding(biased).is_alarm
    assert biased.num_pairs > 50


def test_padding_says_nothing_and_is_as_long_as_asked() -> None:
    padded = pad("The answer is 4.", 4)
    assert padded.startswith("The answer is 4. ")
    assert 64 <= len(padded) < 64 + 80


def residuals(recalibrator: Recalibrator, made: World, num_windows: int) -> list[float]:
    """Slopes left after correction, a window; the calibration is switched after each."""
    found = []
    for _ in range(num_windows):
        window = made.window()
        scores = recalibrator.active.correct(window.scores_N, window.lengths_N, window.groups_N)
        fit = fit_length(
            Window(
                scores_N=scores,
                lengths_N=window.lengths_N,
                correct_N=window.correct_N,
                groups_N=window.groups_N,
            )
        )
        assert fit is not None
        found.append(fit.beta)
        recalibrator.add_window(window)
        recalibrator.switch()
    return found


def grow(recalibrator: Recalibrator) -> None:
    """Answers get longer by a fifth in 50 steps and no better."""
    for step in range(100):
        recalibrator.raw.drift.add(1000 * 1.2 ** (step / 50), 0.4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("length", "grows"), [(0.1, True), (0.12, False), (0.2, False)])
def test_first_level_brings_the_rest_of_the_bias_under_two_hundredths(
    length: float, grows: bool, seed: int
) -> None:
    recalibrator = Recalibrator()
    if grows:
        grow(recalibrator)
    left = residuals(recalibrator, world(length, seed=seed), 40)
    assert recalibrator.active.level is Level.OFFSET
    assert left[0] > 0.07
    assert abs(float(np.mean(left[15:]))) < 0.01
    assert max(abs(each) for each in left[20:]) < 0.04
    settled = np.convolve(left[15:], np.ones(5) / 5, mode="valid")
    assert np.abs(settled).max() < 0.02


def test_where_no_rule_knows_what_is_right_padding_alone_leads_to_the_offset() -> None:
    recalibrator, beta = Recalibrator(), 0.2
    for _ in range(PATIENCE):
        gain = beta * MEAN_DOUBLINGS
        left = gain - recalibrator.active.beta * MEAN_DOUBLINGS
        reports = [PaddingReport(gain=each, lower95=each - 0.02, num_pairs=64) for each in (gain, left)]
        assert recalibrator.add_padding(*reports).is_alarm
        recalibrator.switch()
    assert recalibrator.active.level is Level.OFFSET
    assert recalibrator.active.beta == pytest.approx(beta, rel=0.1)


def test_an_honest_judge_is_never_recalibrated() -> None:
    recalibrator = Recalibrator()
    residuals(recalibrator, world(0.0, seed=11, right_longer=0.7), 100)
    assert recalibrator.active.level is Level.NONE
    assert recalibrator.active.version == 0


def test_nothing_switches_inside_a_step() -> None:
    recalibrator, made = Recalibrator(), world(0.15, seed=12)
    for _ in range(6):
        recalibrator.add_window(made.window())
        assert recalibrator.active.version == 0
    assert recalibrator.switch().version == 1
    assert recalibrator.active.level is Level.OFFSET
    assert recalibrator.switch().version == 1  # nothing new, nothing changes


def test_ladder_is_climbed_while_bias_is_left_and_a_person_brings_it_back() -> None:
    """A slope that the bounded offset cannot take off."""
    recalibrator, seen = Recalibrator(), []
    chance = np.random.default_rng(13)
    groups = np.repeat(np.arange(NUM_GROUPS), GROUP_SIZE).astype(np.int64)
    for _ in range(60):
        lengths = chance.normal(0.0, 3.0, len(groups))
        window = Window(
            scores_N=0.4 * lengths + chance.normal(0, 0.1, len(groups)),
            lengths_N=lengths,
            correct_N=np.zeros(len(groups)),
            groups_N=groups,
        )
        recalibrator.add_window(window)
        active = recalibrator.switch()
        seen.append((active.level, active.variant, active.wants_nearest_reference, active.general_weight))
    assert list(dict.fromkeys(seen)) == [
        (Level.OFFSET, Variant.PLAIN, False, 1.0),
        (Level.PROMPT, Variant.LENGTH_NEUTRAL, False, 1.0),
        (Level.REFERENCE, Variant.LENGTH_NEUTRAL, True, 0.5),
        (Level.OFF, Variant.LENGTH_NEUTRAL, True, 0.0),
    ]
    recalibrator.allow_again()
    assert recalibrator.switch().level is Level.PROMPT


def test_ladder_is_left_when_the_judge_is_honest_again() -> None:
    recalibrator = Recalibrator()
    residuals(recalibrator, world(0.15, seed=14), 20)
    assert recalibrator.active.level is Level.OFFSET
    residuals(recalibrator, world(0.0, seed=15), 30)
    assert recalibrator.active.level is Level.NONE
    assert recalibrator.active.beta == 0.0


def test_offset_is_bounded_and_centred_in_the_group() -> None:
    recalibrator = Recalibrator()
    residuals(recalibrator, world(0.15, seed=16), 20)
    scores, groups = np.full(4, 0.5), np.array([0, 0, 1, 1], dtype=np.int64)
    corrected = recalibrator.active.correct(scores, np.array([0.0, 10.0, 3.0, 3.0]), groups)
    assert corrected == pytest.approx([0.75, 0.25, 0.5, 0.5])
    active = recalibrator.active
    paired = [0.5 - active.offset(5.0, reference) for reference in (5.0, 4.0, 6.0, 99.0)]
    assert paired == pytest.approx([0.5, 0.5 - active.beta, 0.5 + active.beta, 0.75])
    assert active.offset(active.anchor) == 0.0
    assert active.offset(active.anchor + 1) == pytest.approx(active.beta)
    assert active.offset(99.0) == 0.5
    assert nearest_reference(math.log2(100), [3.0, 6.5, 9.0]) == 1
