"""What the service sees of its judge: windows out of requests, figures as metrics."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pytest

from forklight_core.telemetry import METRICS
from forklight_reward import metrics
from forklight_reward.judge.contract import Judgement, abstain
from forklight_reward.judge.ladder import Ladder
from forklight_reward.judge.length_monitor import GROUPS_A_WINDOW
from forklight_reward.judge.pairwise import PairReport, Pairwise
from forklight_reward.judge.scripted import ScriptedChat
from forklight_reward.judge.store import Book
from forklight_reward.judge.watch import (
    MOST_OPEN_GROUPS,
    PAIRS_EVERY,
    JudgeWatch,
    Seen,
    known_correctness,
    length_of,
)

GROUP_SIZE = 8


class Mind:
    """A watch and the ladder behind it."""

    def __init__(self) -> None:
        self.ladder = Ladder(Book(), judge="test")
        self.watch = JudgeWatch(self.ladder.add_groups, group_size=GROUP_SIZE)

    @property
    def is_ringing(self) -> bool:
        return self.ladder.recalibrator.raw.is_ringing


def feed(watch: JudgeWatch, *, beta: float, num_groups: int, seed: int = 1) -> None:
    """Judged samples of whole groups: half of them right, lengths between 100 and 1600 characters."""
    chance = np.random.default_rng(seed)
    for group in range(num_groups):
        for sample in range(GROUP_SIZE):
            doublings, is_right = chance.uniform(0, 4), chance.random() < 0.5
            answer = "x" * int(100 * 2**doublings) + ("\\boxed{42}" if is_right else "\\boxed{41}")
            score = 0.3 + 0.3 * is_right + beta * (doublings - 2) + chance.normal(0, 0.1)
            seen = Seen(
                group_id=f"{seed}-{group}",
                sample_id=f"{seed}-{group}-{sample}",
                version=1,
                reference="42",
                response=f"</think>{answer}",
                judgement=Judgement(grade=3, exact=float(score), evidence=""),
                length=length_of(answer),
            )
            for _ in range(2):  # delivered twice
                watch.add(seen)


@pytest.mark.parametrize(("beta", "rings"), [(0.0, False), (0.1, True)])
def test_alarm_rings_for_a_judge_that_pays_for_length(
    beta: float, rings: bool, caplog: pytest.LogCaptureFixture
) -> None:
    mind = Mind()
    with caplog.at_level(logging.WARNING):
        feed(mind.watch, beta=beta, num_groups=3 * GROUPS_A_WINDOW)
    assert mind.is_ringing is rings
    assert ("The judge pays for length" in caplog.text) is rings
    assert [event.kind for event in mind.ladder.to_tell] == ["judge_alarm"] * rings
    assert [each["kind"] for each in mind.ladder.to_log].count("window") == 3


def test_nothing_is_concluded_before_a_window_is_full() -> None:
    mind = Mind()
    feed(mind.watch, beta=0.3, num_groups=GROUPS_A_WINDOW - 1)
    assert not mind.is_ringing
    feed(mind.watch, beta=0.3, num_groups=1, seed=2)
    assert mind.is_ringing


def part_of(group: int, sample: int, version: int) -> Seen:
    return Seen(
        group_id=str(group),
        sample_id=str(sample),
        version=version,
        reference="42",
        response="</think>\\boxed{42}",
        judgement=Judgement(grade=3, evidence=""),
        length=float(sample),
    )


def test_groups_that_are_never_whole_do_not_pile_up() -> None:
    watch = Mind().watch
    for number in range(3 * MOST_OPEN_GROUPS):
        watch.add(part_of(number, 0, 1))
    assert len(watch._open) == MOST_OPEN_GROUPS


def test_groups_that_other_judges_share_are_closed_when_the_policy_is_far_on() -> None:
    windows: list[int] = []
    watch = JudgeWatch(lambda groups: windows.append(len(groups)), group_size=GROUP_SIZE)
    for number in range(GROUPS_A_WINDOW):
        for sample in range(2):
            watch.add(part_of(number, sample, 1))
    watch.add(part_of(1000, 0, 3))
    assert not windows
    watch.add(part_of(1001, 0, 4))
    assert windows == [GROUPS_A_WINDOW]


@pytest.mark.parametrize(
    ("reference", "response", "known"),
    [
        ("42", "</think> \\boxed{42}", True),
        ("42", "</think> \\boxed{43}", False),
        ("42", "</think> forty-two", None),
        ("a long explanation of why the sky is blue, " * 3, "</think> \\boxed{42}", None),
        ("\\sqrt{8}", "</think> \\boxed{2\\sqrt{2}}", None),
    ],
)
def test_correctness_is_known_only_where_exact_rules_say(
    reference: str, response: str, known: bool | None
) -> None:
    assert known_correctness(reference, response) is known


def test_every_metric_of_the_service_is_registered_with_its_kind() -> None:
    source = Path(metrics.__file__).read_text(encoding="utf-8")
    used = set(re.findall(r'(counter|gauge|histogram)\("(forklight\.[\w.]+)"\)', source))
    assert {name for _, name in used if ".judge." in name}
    assert used == {(spec.kind.value, spec.name) for spec in METRICS if spec.owner == "reward"}


def test_figures_of_comparisons_are_reported_every_32_pairs() -> None:
    class Counted(Pairwise):
        num_reports = 0

    engine = Counted(ScriptedChat())
    report = engine.statistics.report

    def counting() -> PairReport:
        engine.num_reports += 1
        return report()

    engine.statistics.report = counting  # type: ignore[method-assign]
    watch = JudgeWatch(lambda groups: None, group_size=2)
    for number in range(1, 2 * PAIRS_EVERY + 1):
        engine.statistics.add(1, 1)
        watch.count(engine, abstain("no") if number % 4 == 0 else Judgement(grade=3, evidence=""))
    assert engine.num_reports == 2
    assert watch.abstain_share == 0.25
