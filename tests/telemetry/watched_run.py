"""What is left of a run that was watched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.telemetry.collector import Collector
from tests.telemetry.prometheus_server import PrometheusServer

STEPS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedRun:
    """The run is over; Prometheus still answers."""

    folder: Path
    run_id: str
    receiver: Collector
    prometheus: PrometheusServer | None
    """None where it is not installed."""
    times: tuple[float, float]
    """Unix seconds of start and end."""
