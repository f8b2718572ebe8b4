"""Dashboards are what the code says, of known metrics only, with the thresholds of the alerts."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from forklight_core.telemetry import METRICS, MetricKind
from infra.grafana.build import DASHBOARDS, path_of, stale
from infra.grafana.expressions import alert_threshold, level, rate, recorded
from infra.grafana.panels import Panel
from tests.telemetry.prometheus_server import missing
from tests.telemetry.queries import QUERIES, WITHOUT_DATA
from tests.telemetry.rules import read_rules, unknown_in


def test_committed_dashboards_are_what_the_code_says() -> None:
    assert stale() == [], "run: make dashboards"
    assert len(DASHBOARDS) == 4


def test_a_metric_that_is_renamed_or_has_no_such_label_breaks_the_build() -> None:
    with pytest.raises(LookupError, match="registry"):
        level("forklight.trainer.rewards")
    with pytest.raises(LookupError, match="no counter"):
        rate("forklight.trainer.reward")
    with pytest.raises(LookupError, match="no attribute kind"):
        level("forklight.trainer.reward", "kind")
    with pytest.raises(LookupError, match="records"):
        recorded("forklight:nothing", "")


def test_every_metric_of_the_registry_is_on_a_dashboard() -> None:
    shown = {name for _, _, query in QUERIES for name in query.metrics}
    assert shown == {spec.name for spec in METRICS}
    assert set(WITHOUT_DATA) <= shown


def test_expressions_speak_of_known_metrics_and_labels() -> None:
    known = {rule.name for rule in read_rules() if not rule.is_alert}
    assert {query.expression: unknown_in(query.expression, known) for _, _, query in QUERIES} == {
        query.expression: set() for _, _, query in QUERIES
    }


def test_thresholds_are_those_of_the_alerts() -> None:
    alerts = {rule.name: rule.expression for rule in read_rules() if rule.is_alert}
    drawn = 0
    for board in DASHBOARDS:
        content = json.loads(path_of(board).read_text())
        by_place = {found["title"]: found for found in content["panels"] if found["type"] != "row"}
        for panel in board.panels:
            steps = by_place[panel.title]["fieldConfig"]["defaults"]["thresholds"]["steps"]
            assert len(steps) == (2 if panel.alert else 1)
            if panel.alert:
                drawn += 1
                value = alert_threshold(panel.alert).value
                assert steps[1]["value"] == value
                assert re.search(rf"(<|>|==) {value:g}\b", alerts[panel.alert])
    assert drawn > 10


def test_dashboards_ask_for_a_run_and_every_panel_has_its_place() -> None:
    for board in DASHBOARDS:
        content = json.loads(path_of(board).read_text())
        names = [variable["name"] for variable in content["templating"]["list"]]
        assert names == ["source", "run", *(["pod"] if board.has_pods else [])]
        ids = [panel["id"] for panel in content["panels"]]
        assert len(ids) == len(set(ids))
        places = [tuple(panel["gridPos"][key] for key in "xy") for panel in content["panels"]]
        assert len(places) == len(set(places))
        used = {name for panel in content["panels"] for target in panel.get("targets", ()) for name in
                re.findall(r"\$(\w+)", target["expr"])} - {"__rate_interval"}  # fmt: skip
        assert used <= set(names)


@pytest.mark.skipif(bool(missing("promtool")), reason=missing("promtool"))
def test_every_expression_parses(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{index}", "expr": query.expression.replace("$__rate_interval", "5m")}
        for index, (_, _, query) in enumerate(QUERIES)
    ]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_histograms_are_asked_with_their_buckets() -> None:
    kinds = {spec.name: spec.kind for spec in METRICS}
    panels: list[Panel] = [panel for _, panel, query in QUERIES if "histogram_quantile" in query.expression]
    assert panels
    for panel in panels:
        assert MetricKind.HISTOGRAM in {kinds[name] for query in panel.queries for name in query.metrics}
