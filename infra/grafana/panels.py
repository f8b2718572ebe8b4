"""What a dashboard is made of, and the JSON that Grafana (10 and newer) reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from forklight_core.telemetry import METRICS
from infra.grafana.expressions import POD, RUN, Query, alert_threshold

SCHEMA = 39
WIDTH = 24
HEIGHT = 8
SOURCE = {"type": "prometheus", "uid": "${source}"}
_BY_NAME = {spec.name: spec for spec in METRICS}


class Unit(StrEnum):
    """Units by Grafana's names."""

    SECONDS = "s"
    BYTES = "bytes"
    SHARE = "percentunit"
    NUMBER = "short"
    RATE = "cps"


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph."""

    title: str
    queries: tuple[Query, ...]
    unit: Unit = Unit.NUMBER
    alert: str = ""
    """Its threshold is drawn as a line."""
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Panels side by side under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One page."""

    name: str
    """Of its file and in its address."""
    title: str
    description: str
    rows: tuple[Row, ...]
    has_pods: bool = False
    """Whether a choice of pods is offered."""

    @property
    def panels(self) -> Sequence[Panel]:
        """All of them."""
        return [panel for row in self.rows for panel in row.panels]


def render(dashboard: Dashboard) -> str:
    """The file's text."""
    content = {
        "uid": f"forklight-{dashboard.name}",
        "title": f"Forklight: {dashboard.title}",
        "description": dashboard.description,
        "tags": ["forklight"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": _variables(dashboard)},
        "links": [
            {"type": "dashboards", "tags": ["forklight"], "title": "Forklight", "keepTime": True,
             "includeVars": True, "asDropdown": True}
        ],
        "panels": _place(dashboard.rows),
    }  # fmt: skip
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def _variables(dashboard: Dashboard) -> list[dict[str, object]]:
    found: list[dict[str, object]] = [
        {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        _variable("run", "Run", f"label_values(forklight_buffer_step, {RUN})", many=False),
    ]
    if dashboard.has_pods:
        pods = f'label_values(forklight_rollout_running{{{RUN}="$run"}}, {POD})'
        found.append(_variable("pod", "Pod", pods, many=True))
    return found


def _variable(name: str, label: str, query: str, *, many: bool) -> dict[str, object]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 2,
        "multi": many,
        "includeAll": many,
        **({"allValue": ".*"} if many else {}),
    }


def _place(rows: Sequence[Row]) -> list[dict[str, object]]:
    placed: list[dict[str, object]] = []
    top = 0
    for row in rows:
        where = {"x": 0, "y": top, "w": WIDTH, "h": 1}
        placed.append(
            {"id": len(placed) + 1, "type": "row", "title": row.title, "gridPos": where, "panels": []}
        )
        width = WIDTH // len(row.panels)
        for index, panel in enumerate(row.panels):
            where = {"x": index * width, "y": top + 1, "w": width, "h": HEIGHT}
            placed.append({"id": len(placed) + 1, "gridPos": where, **_panel(panel)})
        top += HEIGHT + 1
    return placed


def _panel(panel: Panel) -> dict[str, object]:
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": describe(panel),
        "datasource": SOURCE,
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": SOURCE, "expr": query.expression,
             "legendFormat": query.legend, "exemplar": "_bucket" in query.expression}
            for index, query in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }  # fmt: skip


def _defaults(panel: Panel) -> dict[str, object]:
    low, high = "green", "red"
    steps: list[dict[str, object]] = []
    if panel.alert:
        threshold = alert_threshold(panel.alert)
        low, high = ("red", "green") if threshold.is_floor else (low, high)
        steps.append({"color": high, "value": threshold.value})
    steps.insert(0, {"color": low, "value": None})
    return {
        "unit": panel.unit.value,
        "custom": {
            "lineWidth": 1,
            "fillOpacity": 20 if panel.stacked else 0,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if panel.alert else "off"},
        },
        "thresholds": {"mode": "absolute", "steps": steps},
    }


def describe(panel: Panel) -> str:
    """What its metrics are, in the registry's words, and the alert that watches them."""
    names = dict.fromkeys(name for query in panel.queries for name in query.metrics)
    lines = [f"{name}: {_BY_NAME[name].help}." for name in names]
    return "\n".join([*lines, *([f"Alert: {panel.alert}"] if panel.alert else [])])
