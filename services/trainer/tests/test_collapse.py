"""Each alarm rings on its collapse within its patience, and stays silent on long, noisy, healthy runs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from forklight_core.runfile import RunFile
from forklight_trainer.steering.baseline import find_usual
from forklight_trainer.steering.collapse import CollapseWatch
from forklight_trainer.steering.events import EventKind, Severity, SteeringEvent
from forklight_trainer.steering.figures import StepFigures
from services.trainer.tests.steered_runs import healthy_run, with_column

SEEDS = range(8)
START = 300  # place of the first collapsed step
ALARMS = ("entropy", "length_gap", "tail", "repetition", "gradient", "correlation")

# Alarm: the figure that collapses, and by what its healthy values are multiplied from START on.
COLLAPSES = {
    "entropy": ("entropy", 0.05),
    "length_gap": ("length_mean_negative", 2.5),
    "tail": ("tail_ratio", 3.0),
    "repetition": ("repeated_share", 40.0),
    "gradient": ("grad_norm", 200.0),
    "correlation": ("correlation", 0.98),
}


def settings(**collapse: object) -> RunFile:
    return RunFile.model_validate({"collapse": collapse})


def watch(run: list[StepFigures], run_file: RunFile | None = None) -> list[SteeringEvent]:
    """All events of a run."""
    watching = CollapseWatch(run_file or RunFile())
    return [event for figures in run for _, event in watching.observe(figures)]


@pytest.mark.parametrize("seed", SEEDS)
def test_alarms_when_a_run_is_healthy_for_1000_steps_are_silent(seed: int) -> None:
    assert watch(healthy_run(seed, 1000)) == []


@pytest.mark.parametrize("name", ALARMS)
@pytest.mark.parametrize("seed", SEEDS)
def test_alarm_when_its_figure_collapses_rings_within_patience_and_alone(name: str, seed: int) -> None:
    figure, factor = COLLAPSES[name]
    run = healthy_run(seed, START + 40)
    values = np.array([getattr(figures, figure) for figures in run[START:]]) * factor
    events = watch(with_column(run, figure, values, start=START))
    patience = getattr(RunFile().collapse, name).patience
    assert [(event.source, event.kind) for event in events] == [(name, EventKind.ALERT)]
    assert events[0].step == START + patience
    assert events[0].evidence["since"] == START + 1
    assert events[0].evidence["pressure"] > 1
    assert watch(run) == []


@pytest.mark.parametrize("name", ALARMS)
def test_alert_when_the_figure_recovers_ends_after_as_many_calm_steps(name: str) -> None:
    figure, factor = COLLAPSES[name]
    run = healthy_run(3, START + 100)
    values = np.array([getattr(figures, figure) for figures in run[START : START + 30]]) * factor
    events = watch(with_column(run, figure, values, start=START))
    patience = getattr(RunFile().collapse, name).patience
    assert [event.kind for event in events] == [EventKind.ALERT, EventKind.ALERT_ENDED]
    assert events[1].step >= START + 30 + patience
    assert events[1].step <= START + 30 + 3 * patience
    assert (events[1].severity, events[1].evidence["since"]) == (Severity.INFO, START + 1)


def steps_at(values: list[float]) -> list[StepFigures]:
    return [StepFigures(step=place + 1, repeated_share=value) for place, value in enumerate(values)]


def test_alert_when_the_figure_hovers_about_the_limit_does_not_flicker() -> None:
    """The limit is 0.3 and calm begins at 0.24: between the two nothing changes."""
    run = steps_at([0.31] * 5 + [0.29, 0.31] * 50 + [0.23] * 4 + [0.25] + [0.23] * 4)
    assert [(event.kind, event.step) for event in watch(run)] == [(EventKind.ALERT, 5)]
    ended = watch(steps_at([0.31] * 5 + [0.23] * 5))
    assert [(event.kind, event.step) for event in ended] == [
        (EventKind.ALERT, 5),
        (EventKind.ALERT_ENDED, 10),
    ]


def test_alarm_when_steps_measure_nothing_counts_neither_way() -> None:
    run = steps_at([0.5, math.nan, 0.5, math.nan, math.nan, 0.5, 0.5, math.nan, 0.5])
    assert [event.step for event in watch(run)] == [9]
    assert watch([StepFigures(step=place) for place in range(1, 200)]) == []


def test_alarm_when_one_step_is_well_inside_begins_to_count_anew() -> None:
    assert watch(steps_at(([0.5] * 4 + [0.1]) * 20)) == []


def test_running_median_when_a_collapse_lasts_does_not_learn_from_it() -> None:
    """1,000 collapsed steps after 100 healthy ones: the alert is still on, and recovery still ends it."""
    entropies = [0.4] * 100 + [0.01] * 1000 + [0.4] * 10
    run = [StepFigures(step=place + 1, entropy=value) for place, value in enumerate(entropies)]
    assert [(event.kind, event.step) for event in watch(run)] == [
        (EventKind.ALERT, 105),
        (EventKind.ALERT_ENDED, 1105),
    ]


def test_relative_limits_when_a_run_is_young_say_nothing_and_absolute_ones_do() -> None:
    run = [StepFigures(step=place + 1, entropy=0.4 * 0.5**place) for place in range(15)]
    assert watch(run) == []
    found = watch(run, settings(entropy={"floor": 0.01}))
    assert [event.step for event in found] == [11]  # 0.4 / 2^6 is the first under 0.01


def test_entropy_when_it_falls_slowly_meets_the_floor() -> None:
    """The median follows a slow fall, so only a floor can see it."""
    run = [StepFigures(step=place + 1, entropy=0.4 * 0.99**place) for place in range(600)]
    assert watch(run) == []
    found = watch(run, settings(entropy={"floor": 0.01}))
    expected = next(place for place in range(600) if 0.4 * 0.99**place < 0.01) + 5
    assert [event.step for event in found] == [expected]


def test_ratios_when_they_rise_and_stay_below_1_are_no_alert() -> None:
    """Tails surer than heads, wrong answers shorter than right ones: doubling is no trouble there."""
    quiet = [0.2] * 50 + [0.9] * 50
    loud = [0.2] * 50 + [1.1] * 50
    for values, num_alerts in ((quiet, 0), (loud, 2)):
        run = [
            StepFigures(
                step=place + 1,
                tail_ratio=value,
                length_mean_negative=100 * value,
                length_mean_positive=100.0,
            )
            for place, value in enumerate(values)
        ]
        assert len(watch(run)) == num_alerts


def test_correlation_when_no_limit_is_given_warns_half_way_to_the_gate() -> None:
    run = [StepFigures(step=place + 1, correlation=0.994) for place in range(5)]
    event = watch(run)[0]
    assert (event.step, event.evidence["limit"]) == (3, 0.995)
    assert watch(run, settings(correlation={"limit": 0.99})) == []
    strict = RunFile.model_validate({"parity": {"min_correlation": 1.0}})
    assert watch(run, strict)[0].evidence["limit"] == 1.0


def test_repetition_when_only_the_stops_tell_rings_by_them() -> None:
    run = [StepFigures(step=place + 1, repeated_share=0.1, repetition_stops=0.2) for place in range(5)]
    event = watch(run)[0]
    assert (event.evidence["value"], event.evidence["limit"]) == (0.2, 0.1)


def test_alarm_when_it_is_off_or_acts_says_so_by_silence_and_severity() -> None:
    run = steps_at([0.5] * 5)
    assert watch(run, settings(repetition={"action": "off"})) == []
    assert watch(run)[0].severity is Severity.WARNING
    assert watch(run, settings(repetition={"action": "pause"}))[0].severity is Severity.ALERT


def test_event_when_shown_says_what_how_much_since_when_and_what_to_do() -> None:
    event = watch(steps_at([0.1] * 7 + [0.5] * 5))[0]
    for part in (
        "repeated tokens",
        "0.5",
        "limit of 0.3",
        "5 steps",
        "since step 8",
        "sampling.repetition_tokens",
    ):
        assert part in event.title, part
    evidence = json.loads(event.evidence_json)
    assert (evidence["source"], evidence["value"], evidence["since"]) == ("repetition", 0.5, 8)
    assert evidence["median"] is None  # too young for one: NaN is null


def test_usual_when_values_are_few_or_wild_is_nan_or_unmoved() -> None:
    assert math.isnan(find_usual([1.0] * 19).median)
    chance = np.random.default_rng(0)
    values = [*chance.normal(5.0, 2.0, 2000), *([1e9] * 100)]
    usual = find_usual(values)
    assert usual.median == pytest.approx(5.0, abs=0.25)
    assert usual.spread == pytest.approx(2.0, rel=0.15)
    assert usual.spread == pytest.approx(1.4826 * np.median(np.abs(values - np.median(values))))
