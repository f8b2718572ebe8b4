"""What is known of a metric before anybody measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class MetricKind(StrEnum):
    """What an instrument does."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric."""

    name: str
    kind: MetricKind
    unit: str
    help: str
    owner: str
    labels: tuple[str, ...] = ()
    """Attributes of its points."""


# A response of a long run has up to 81,920 tokens, a call takes a millisecond, a sample an hour.
_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_TOKENS = (
    8,
    16,
    32,
    64,
    128,
    256,
    512,
    1024,
    2048,
    4096,
    8192,
    16384,
    32768,
    40960,
    49152,
    57344,
    65536,
    73728,
    81920,
)
_REWARDS = (-1.0, -0.75, -0.5, -0.25, -0.1, 0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_VERSIONS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)

BUCKETS = {"s": _SECONDS, "{token}": _TOKENS, "1": _REWARDS, "{version}": _VERSIONS}
"""Upper bounds of a histogram's buckets, by unit. The default of OpenTelemetry fits milliseconds."""


def buckets_of(spec: MetricSpec) -> Sequence[float]:
    """The bounds of a histogram."""
    return BUCKETS[spec.unit]
