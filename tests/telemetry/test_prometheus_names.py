"""A metric has one name in Prometheus, by pull endpoint and by collector, and the labels of its process."""

from __future__ import annotations

import subprocess
import sys

import yaml

from forklight_core.telemetry import METRICS, MetricKind, MetricSpec
from forklight_core.telemetry.metric_spec import BUCKETS
from forklight_core.telemetry.prometheus_names import label_name, prometheus_name, series_names
from tests.telemetry.rules import ROOT

EXPORT = """
import json, sys, urllib.request
from forklight_core.ports import free_ports
from forklight_core.telemetry import METRICS, Destinations, counter, gauge, histogram, setup_telemetry
(port,) = free_ports(1)
stop = setup_telemetry("trainer", "pod-1", Destinations(metrics_listen=f"127.0.0.1:{port}"), "run-1")
for spec in METRICS:
    labels = dict.fromkeys(spec.labels, "x")
    if spec.kind == "counter":
        counter(spec.name).add(1, labels)
    elif spec.kind == "gauge":
        gauge(spec.name).set(1, labels)
    else:
        histogram(spec.name).record(0.3, labels)
sys.stdout.write(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode())
stop()
"""
UNITS_OF_COLLECTOR = {"s": "seconds", "By": "bytes", "nat": "nat"}
"""Of its table of units, those that the registry uses; what it does not know it leaves as it is."""


def test_the_pull_endpoint_emits_every_metric_under_its_name_and_labels() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXPORT], capture_output=True, text=True, check=True, timeout=60
    )
    lines = done.stdout.splitlines()
    families = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE")}
    del families["target_info"]
    assert families == {prometheus_name(spec): spec.kind.value for spec in METRICS}
    for spec in METRICS:
        for name in series_names(spec):
            assert any(line.startswith(f"{name}{{") for line in lines), name
        found = [line for line in lines if line.startswith(f"{series_names(spec)[0]}{{")]
        keys = {part.partition("=")[0] for part in found[-1].partition("{")[2].partition("}")[0].split(",")}
        own = {label_name(key) for key in spec.labels}
        assert keys - {"le"} == own | {"rl_run_id", "service_name", "service_instance_id"}, spec.name


def test_the_collector_gives_the_same_names() -> None:
    config = yaml.safe_load((ROOT / "infra" / "otel" / "collector.yaml").read_text())
    statements = config["processors"]["transform/names"]["metric_statements"][0]["statements"]
    assert statements == ['set(unit, "") where unit == "1"']
    assert config["exporters"]["prometheus"]["add_metric_suffixes"] is True
    assert {spec.name: collector_name(spec) for spec in METRICS} == {
        spec.name: prometheus_name(spec) for spec in METRICS
    }


def collector_name(spec: MetricSpec) -> str:
    """The rules of the collector's exporter: a unit or suffix that is a word of the name is not repeated."""
    unit = "" if spec.unit == "1" else spec.unit
    words = [word for word in spec.name.replace("_", ".").split(".") if word]
    main, _, per = unit.partition("/")
    main = "" if "{" in main else UNITS_OF_COLLECTOR.get(main, main)
    if main and main not in words:
        words.append(main)
    if per and "{" not in per:
        words += ["per", {"s": "second"}[per]]
    if spec.kind is MetricKind.COUNTER:
        words = [word for word in words if word != "total"] + ["total"]
    elif spec.kind is MetricKind.GAUGE and unit == "1":
        words = [word for word in words if word != "ratio"] + ["ratio"]
    return "_".join(words)


def test_every_histogram_has_bounds_that_fit_its_unit() -> None:
    for spec in METRICS:
        if spec.kind is MetricKind.HISTOGRAM:
            assert list(BUCKETS[spec.unit]) == sorted(set(BUCKETS[spec.unit]))
    assert max(BUCKETS["{token}"]) == 81_920
