"""The pull side: an HTTP endpoint where Prometheus fetches this process's metrics.

Names and labels are those that our collector gives (prometheus_names.py), without exemplars: OpenTelemetry's
text exporter has none.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forklight_core.errors import InvalidInputError
from forklight_core.telemetry.conventions import IDENTITY

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposition:
    """A listening endpoint."""

    reader: MetricReader
    """To be given to the meter provider."""
    port: int
    stop: Callable[[], None]


def serve_metrics(listen: str) -> Exposition | None:
    """Listen; None when this process may not or cannot: a service works without being watched."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise InvalidInputError(
            f"cannot serve metrics on {listen!r}: expected host:port, for example 0.0.0.0:9464"
        )
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return None  # of a pod's processes under torchrun the first one answers
    try:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError as error:
        log.error("metrics are not served: install forklight-core[metrics]", extra={"reason": str(error)})
        return None
    registry = CollectorRegistry()
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except (OSError, OverflowError) as error:
        log.error("metrics are not served", extra={"listen": listen, "reason": str(error)})
        return None
    reader = PrometheusMetricReader(
        scope_info_enabled=False,
        resource_attribute_filter=lambda key: key in IDENTITY,
        registry=registry,
    )
    log.info("metrics are served", extra={"address": f"{host}:{server.server_port}"})

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return Exposition(reader=reader, port=server.server_port, stop=stop)
