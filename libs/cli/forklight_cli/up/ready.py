"""Readiness: gRPC health of a service, `/healthz` of the console; what is late is named."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Sequence

from forklight_cli.up.plan import Kind, ProcessPlan
from forklight_core.errors import ForklightError

PROBE_DEADLINE_S = 1.0
LATE_AFTER_S = 120.0


class ReadyWatch:
    """Asks processes until each has been ready once; tells when all are, and once who is late."""

    def __init__(self, plans: Sequence[ProcessPlan], report: Callable[[str], None]) -> None:
        self._waiting = list(plans)
        self._report = report
        self._started = time.monotonic()
        self._late_at = self._started + LATE_AFTER_S

    def look(self) -> None:
        """Ask those that were not ready yet."""
        if not self._waiting:
            return
        self._waiting = [plan for plan in self._waiting if not is_ready(plan)]
        now = time.monotonic()
        if not self._waiting:
            self._report(f"everything is ready after {now - self._started:.0f} s")
        elif now > self._late_at:
            names = ", ".join(plan.name for plan in self._waiting)
            self._report(f"not ready after {now - self._started:.0f} s: {names}")
            self._late_at = float("inf")


def is_ready(plan: ProcessPlan) -> bool:
    """Whether a process answers that it serves."""
    return _console_answers(plan.address) if plan.kind is Kind.CONSOLE else _service_serves(plan.address)


def _service_serves(address: str) -> bool:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from forklight_core.rpc import READY, open_sync_channel

    with open_sync_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(service=READY), timeout=PROBE_DEADLINE_S)
        except ForklightError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def _console_answers(address: str) -> bool:
    connection = http.client.HTTPConnection(address, timeout=PROBE_DEADLINE_S)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
