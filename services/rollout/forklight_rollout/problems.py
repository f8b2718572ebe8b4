"""Why a pod is not well, by area, for its status; the log has when a problem began and when it was over."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import StrEnum

log = logging.getLogger(__name__)


class Area(StrEnum):
    """Where a problem lies."""

    WEIGHTS = "weights"
    REDIS = "redis"
    LEASES = "leases"
    QUEUE = "queue"
    BUFFER = "buffer"
    BLOBS = "blobs"
    PROBE = "probe"
    TOOLS = "tools"
    THROUGHPUT = "throughput"
    ENGINE = "engine"


OUT_OF_SERVICE = (Area.PROBE, Area.THROUGHPUT, Area.ENGINE)
"""A pod with one of these takes no work: what it made would be wrong, or would be waited for in vain."""


class Problems:
    """The open problems of this pod."""

    def __init__(self) -> None:
        self._open: dict[Area, str] = {}

    def report(self, area: Area, reason: str) -> None:
        if area not in self._open:
            log.warning("problem", extra={"area": area.value, "reason": reason})
        self._open[area] = reason

    def clear(self, area: Area) -> None:
        if self._open.pop(area, None) is not None:
            log.info("problem is over", extra={"area": area.value})

    def summary(self) -> str:
        """One line; empty when all is well."""
        return _join(self._open)

    def out_of_service(self) -> str:
        """Why the pod has to stand aside, in one line; empty when it may work."""
        return _join({area: reason for area, reason in self._open.items() if area in OUT_OF_SERVICE})


def _join(problems: Mapping[Area, str]) -> str:
    return "; ".join(f"{area}: {reason}" for area, reason in problems.items())
