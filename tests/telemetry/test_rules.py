"""Every alert rings in a run with its trouble and keeps quiet in one without; all speak of known metrics."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.telemetry.alert_cases import CASES, Case
from tests.telemetry.prometheus_server import CONFIG, missing
from tests.telemetry.rules import ROOT, RULES, Rule, read_rules, unknown_in

needs_promtool = pytest.mark.skipif(bool(missing("promtool")), reason=missing("promtool"))
RUNS = ("bad", "good")


def test_every_rule_speaks_of_metrics_of_the_registry() -> None:
    rules = read_rules()
    recorded = {rule.name for rule in rules if not rule.is_alert}
    assert {rule.name: unknown_in(rule.expression, recorded) for rule in rules} == {
        rule.name: set() for rule in rules
    }
    assert unknown_in("rate(forklight_no_such_total[5m])", recorded)
    assert unknown_in('forklight_buffer_queue_depth{line="tasks"}', recorded)


def test_every_alert_says_how_bad_it_is_what_it_means_and_where_the_runbook_is() -> None:
    alerts = [rule for rule in read_rules() if rule.is_alert]
    assert len({rule.name for rule in alerts}) == len(alerts) > 20
    page = (ROOT / "infra" / "README.md").read_text()
    anchors = {line.strip("# ").lower() for line in page.splitlines() if line.startswith("#")}
    for rule in alerts:
        assert rule.severity in ("critical", "warning") and rule.wait
        assert set(rule.annotations) == {"summary", "description", "runbook"}
        assert rule.annotations["runbook"] == f"infra/README.md#{rule.name.lower()}"
        assert rule.name.lower() in anchors, f"infra/README.md has no runbook ### {rule.name}"


def test_every_alert_has_a_run_that_rings_and_one_that_does_not() -> None:
    assert {case.alert for case in CASES} == {rule.name for rule in read_rules() if rule.is_alert}


@needs_promtool
def test_the_configuration_of_a_local_run_is_sound() -> None:
    command = ["promtool", "check", "config", CONFIG]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_alerts_ring_when_they_must_and_only_then(tmp_path: Path) -> None:
    by_file: dict[str, list[dict[str, object]]] = {}
    for case in CASES:
        by_file.setdefault(_rule(case).file, []).append(_promtool_test(case))
    for file, tests in by_file.items():
        rules = [str(RULES / "recording.yaml"), str(RULES / file)]
        content = {"rule_files": rules, "evaluation_interval": "1m", "tests": tests}
        (tmp_path / file).write_text(yaml.safe_dump(content))
    command = ["promtool", "test", "rules", *(tmp_path / file for file in by_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def _promtool_test(case: Case) -> dict[str, object]:
    """Both runs beside each other: the alert must ring for the bad one, and for nobody else."""
    series = [
        {"series": f"{each.name}{{{_selector(each.labels | {case.run_label: run})}}}", "values": values}
        for each in case.series
        for run, values in zip(RUNS, (each.bad, each.good), strict=True)
        if values is not None
    ]
    rule = _rule(case)
    labels = case.labels | {case.run_label: "bad", "severity": rule.severity}
    expected = {
        "exp_labels": labels,
        "exp_annotations": {key: _render(text, labels) for key, text in rule.annotations.items()},
    }
    return {
        "interval": "1m",
        "input_series": series,
        "alert_rule_test": [{"eval_time": case.at, "alertname": case.alert, "exp_alerts": [expected]}],
    }


def _rule(case: Case) -> Rule:
    return next(rule for rule in read_rules() if rule.name == case.alert)


def _selector(labels: dict[str, str]) -> str:
    return ", ".join(f'{key}="{value}"' for key, value in labels.items())


def _render(text: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], text)
