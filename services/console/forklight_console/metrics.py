"""This service's metrics, by the names of the registry."""

from __future__ import annotations

from forklight_core.telemetry import counter, histogram

REQUESTS = "forklight.console.requests"
DURATION = "forklight.console.request_duration"


def count_request(path: str, status: int, seconds: float) -> None:
    """A request was answered."""
    counter(REQUESTS).add(1, {"path": path, "status": status})
    histogram(DURATION).record(seconds, {"path": path})
