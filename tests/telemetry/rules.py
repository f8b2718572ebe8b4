"""The rules of Prometheus as they lie in infra/, and what their expressions speak of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from forklight_core.telemetry import METRICS, MetricSpec
from forklight_core.telemetry.prometheus_names import label_name, series_names

ROOT = Path(__file__).parents[2]
RULES = ROOT / "infra" / "prometheus" / "rules"
NOT_OURS = {"up": "Prometheus' own: whether a scrape worked"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """An alert or a recorded series."""

    name: str
    file: str
    expression: str
    is_alert: bool
    wait: str
    severity: str
    annotations: Mapping[str, str]


@cache
def read_rules() -> Sequence[Rule]:
    """All of them, in order of their files."""
    groups = [
        (path.name, group)
        for path in sorted(RULES.glob("*.yaml"))
        for group in yaml.safe_load(path.read_text())["groups"]
    ]
    return [
        Rule(
            name=found.get("alert") or found["record"],
            file=file,
            expression=found["expr"],
            is_alert="alert" in found,
            wait=found.get("for", ""),
            severity=found.get("labels", {}).get("severity", ""),
            annotations=found.get("annotations", {}),
        )
        for file, group in groups
        for found in group["rules"]
    ]


def known_series() -> dict[str, MetricSpec]:
    """Series that Prometheus has of the registry."""
    return {name: spec for spec in METRICS for name in series_names(spec)}


def names_in(expression: str) -> set[str]:
    """What a PromQL expression reads: metrics of ours, recorded series, `up`."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    return set(re.findall(r"\b(?:forklight(?:_[a-z0-9_]+|(?::[a-z0-9_]+)+)|up)\b", bare))


def unknown_in(expression: str, recorded: set[str]) -> set[str]:
    """Names that neither the registry nor a rule makes, and labels that no metric of the expression has."""
    series = known_series()
    names = names_in(expression)
    wrong = {name for name in names if name not in series and name not in recorded and name not in NOT_OURS}
    identity = {"rl_run_id", "service_name", "service_instance_id"}
    for name, selector in re.findall(r"\b(forklight_[a-z0-9_]+)\{([^}]*)\}", expression):
        if name in series:
            has = identity | {label_name(key) for key in series[name].labels} | {"le"}
            wrong |= {
                f"{name}{{{key}}}"
                for key in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)
                if key not in has
            }
    return wrong
