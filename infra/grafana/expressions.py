"""PromQL from names of the registry: a metric that was renamed, or a label it has not, is an error here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from forklight_core.telemetry import METRICS, MetricKind, MetricSpec
from forklight_core.telemetry.conventions import Resource
from forklight_core.telemetry.prometheus_names import label_name, prometheus_name, series_names

RULES = Path(__file__).parents[1] / "prometheus" / "rules"
RUN, POD, SERVICE = label_name(Resource.RUN), label_name(Resource.POD), label_name(Resource.SERVICE)
IN_RUN = f'{RUN}="$run"'
OF_PODS = f'{POD}=~"$pod"'
WINDOW = "$__rate_interval"
_BY_NAME = {spec.name: spec for spec in METRICS}


@dataclass(frozen=True, slots=True)
class Query:
    """One expression of a panel; `metrics` are the names of the registry it reads."""

    expression: str
    legend: str
    metrics: tuple[str, ...] = ()


def level(
    name: str, *by: str, of: str = "max", legend: str = "", pods: bool = False, where: str = ""
) -> Query:
    """A gauge, gathered over the processes."""
    spec = _find(name, MetricKind.GAUGE, by)
    return Query(
        _gather(of, by, _select(prometheus_name(spec), pods, where)), _legend(spec, by, legend), (name,)
    )


def rate(name: str, *by: str, legend: str = "", pods: bool = False, where: str = "") -> Query:
    """Events of a counter a second."""
    spec = _find(name, MetricKind.COUNTER, by)
    found = f"rate({_select(prometheus_name(spec), pods, where)}[{WINDOW}])"
    return Query(_gather("sum", by, found), _legend(spec, by, legend), (name,))


def total(name: str, *by: str, legend: str = "", pods: bool = False) -> Query:
    """All events of a counter since its process began."""
    spec = _find(name, MetricKind.COUNTER, by)
    return Query(
        _gather("sum", by, _select(prometheus_name(spec), pods, "")), _legend(spec, by, legend), (name,)
    )


def quantile(name: str, share: float, *by: str, pods: bool = False, where: str = "") -> Query:
    """A quantile of a histogram."""
    spec = _find(name, MetricKind.HISTOGRAM, by)
    buckets = f"rate({_select(prometheus_name(spec) + '_bucket', pods, where)}[{WINDOW}])"
    labels = " ".join(f"{{{{{label_name(key)}}}}}" for key in by)
    legend = f"p{share * 100:g} {labels}".strip()
    return Query(f"histogram_quantile({share:g}, {_gather('sum', ('le', *by), buckets)})", legend, (name,))


def mean(name: str, *by: str, legend: str = "", pods: bool = False) -> Query:
    """The mean of a histogram."""
    spec = _find(name, MetricKind.HISTOGRAM, by)
    if len(series_names(spec)) == 1:
        raise LookupError(f"{name} may be negative: Prometheus has no sum of it, ask for a quantile")
    sums, counts = (
        _gather("sum", by, f"rate({_select(prometheus_name(spec) + end, pods, '')}[{WINDOW}])")
        for end in ("_sum", "_count")
    )
    return Query(f"{sums}\n/ ({counts} > 0)", _legend(spec, by, legend), (name,))


def spent(name: str, *by: str, legend: str = "") -> Query:
    """Seconds a second that a histogram of times sums up to: the share of the time."""
    spec = _find(name, MetricKind.HISTOGRAM, by)
    found = f"rate({_select(prometheus_name(spec) + '_sum', False, '')}[{WINDOW}])"
    return Query(_gather("sum", by, found), _legend(spec, by, legend), (name,))


def recorded(name: str, legend: str) -> Query:
    """A series that a recording rule makes."""
    if name not in recording_rules():
        raise LookupError(f"no rule of {RULES} records {name}")
    return Query(f"{name}{{{IN_RUN}}}", legend)


def rise(name: str, *by: str, minutes: int, pods: bool = False) -> Query:
    """Events of a counter in the last minutes, as alerts look at them."""
    spec = _find(name, MetricKind.COUNTER, by)
    found = f"increase({_select(prometheus_name(spec), pods, '')}[{minutes}m])"
    return Query(_gather("sum", by, found), _legend(spec, by, ""), (name,))


def recording_rules() -> set[str]:
    """Names of recorded series."""
    return {rule["record"] for rule in _rules() if "record" in rule}


@dataclass(frozen=True, slots=True)
class Threshold:
    """What an alert compares with."""

    value: float
    is_floor: bool
    """It rings below, not above."""


def alert_threshold(alert: str) -> Threshold:
    """The comparison at the end of the first line of an alert's expression."""
    for rule in _rules():
        if rule.get("alert") == alert:
            *_, operator, value = rule["expr"].split("\n")[0].split()
            return Threshold(float(value), operator.startswith("<"))
    raise LookupError(f"no rule of {RULES} is the alert {alert}")


@cache
def _rules() -> list[dict[str, str]]:
    groups = [g for path in sorted(RULES.glob("*.yaml")) for g in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def _find(name: str, kind: MetricKind, by: tuple[str, ...]) -> MetricSpec:
    spec = _BY_NAME.get(name)
    if spec is None or spec.kind is not kind:
        raise LookupError(f"{name} is no {kind} of the registry of metrics: a dashboard cannot show it")
    for key in by:
        if key not in (*spec.labels, Resource.POD, Resource.SERVICE):
            raise LookupError(f"{name} has no attribute {key}: it has {', '.join(spec.labels) or 'none'}")
    return spec


def _select(series: str, pods: bool, where: str) -> str:
    return f"{series}{{{', '.join(part for part in (IN_RUN, OF_PODS if pods else '', where) if part)}}}"


def _gather(of: str, by: tuple[str, ...], expression: str) -> str:
    labels = ", ".join(label_name(key) for key in by)
    return f"{of} by ({labels}) ({expression})" if by else f"{of}({expression})"


def _legend(spec: MetricSpec, by: tuple[str, ...], legend: str) -> str:
    labels = " ".join(f"{{{{{label_name(key)}}}}}" for key in by)
    return f"{legend} {labels}".strip() or spec.name.rpartition(".")[2]
