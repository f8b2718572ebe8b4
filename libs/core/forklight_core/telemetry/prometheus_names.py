"""What Prometheus calls a metric of the registry: the same by the pull endpoint and by our collector.

Dots become underscores, a unit that is no annotation is appended unless the name ends in it, counters end in
`_total`. `1` is no unit: our collector removes it, else it would append `_ratio`.
"""

from __future__ import annotations

import re

from forklight_core.telemetry.metric_spec import MetricKind, MetricSpec, buckets_of

UNITS = {"s": "seconds", "By": "bytes", "nat": "nat", "1": "", "/s": "per_second"}
"""Words for what is left of a unit without its {annotation}."""


def label_name(attribute: str) -> str:
    """The label of an attribute."""
    return re.sub(r"[^a-zA-Z0-9]+", "_", attribute)


def prometheus_name(spec: MetricSpec) -> str:
    """The name of the metric's family, of counters with its `_total`."""
    name = re.sub(r"[^a-zA-Z0-9:]+", "_", spec.name)
    unit = re.sub(r"\{.*\}", "", spec.unit)
    word = UNITS[unit] if unit else ""
    if word and not name.endswith(f"_{word}"):
        name = f"{name}_{word}"
    return f"{name}_total" if spec.kind is MetricKind.COUNTER else name


def series_names(spec: MetricSpec) -> tuple[str, ...]:
    """The names of the metric's series. A histogram of what may be negative has neither sum nor count."""
    name = prometheus_name(spec)
    if spec.kind is not MetricKind.HISTOGRAM:
        return (name,)
    if buckets_of(spec)[0] < 0:
        return (f"{name}_bucket",)
    return (f"{name}_bucket", f"{name}_sum", f"{name}_count")
