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
from forklight_reward.judge.length_monitor import GROUPS_A_WINDOW
from forklight_reward.judge.pairwise import PairReport, Pairwise
from forklight_reward.judge.rule import RuleJudge
from forklight_reward.judge.scripted import ScriptedChat
from forklight_reward.judge.watch import MOST_OPEN_GROUPS, PAIRS_EVERY, JudgeWatch, known_correctness

GROUP_SIZE = 8


def feed(watch: JudgeWatch, *, beta: float, num_groups: int, seed: int = 1) -> None:
    """Judged samples of whole groups: half of them right, lengths between 100 and 1600 characters."""
    chance = np.random.default_rng(seed)
    for group in range(num_groups):
        for sample in range(GROUP_SIZE):
            doublings, is_right = chance.uniform(0, 4), chance.random() < 0.5
            answer = (
                "</think>" + "x" * int(100 * 2**doublings) + ("\\boxed{42}" if is_right else "\\boxed{41}")
            )
            score = 0.3 + 0.3 * is_right + beta * (doublings - 2) + chance.normal(0, 0.1)
            judgement = Judgement(grade=3, exact=float(score), evidence="")
            for _ in range(2):  # delivered twice
                watch.add(
                    group_id=f"{seed}-{group}",
                    sample_id=f"{seed}-{group}-{sample}",
                    reference="42",
                    response=answer,
                    judgement=judgement,
                )


@pytest.mark.parametrize(("beta", "rings"), [(0.0, False), (0.1, True)])
def test_alarm_rings_for_a_judge_that_pays_for_length(
    beta: float, rings: bool, caplog: pytest.LogCaptureFixture
) -> None:
    watch = JudgeWatch(RuleJudge(), group_size=GROUP_SIZE)
    with caplog.at_level(logging.WARNING):
        feed(watch, beta=beta, num_groups=3 * GROUPS_A_WINDOW)
    assert watch.monitor.is_ringing is rings
    assert ("judge pays for length" in caplog.text) is rings


def test_nothing_is_concluded_before_a_window_is_full() -> None:
    watch = JudgeWatch(RuleJudge(), group_size=GROUP_SIZE)
    feed(watch, beta=0.3, num_groups=GROUPS_A_WINDOW - 1)
    assert not watch.monitor.is_ringing
    feed(watch, beta=0.3, num_groups=1, seed=2)
    assert watch.monitor.is_ringing


def test_groups_that_are_never_whole_do_not_pile_up() -> None:
    watch = JudgeWatch(RuleJudge(), group_size=GROUP_SIZE)
    for number in range(3 * MOST_OPEN_GROUPS):
        watch.add(group_id=str(number), sample_id="s", reference="42", response="x", judgement=abstain("no"))
    assert len(watch._open) == MOST_OPEN_GROUPS


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
    watch = JudgeWatch(engine, group_size=2)
    for _ in range(2 * PAIRS_EVERY):
        watch.add(group_id="", sample_id="", reference="r", response="x", judgement=abstain("no"))
    assert engine.num_reports == 2
