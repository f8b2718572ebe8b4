"""Readiness: gRPC health of a service, `/healthz` of the console."""

from __future__ import annotations

import http.client

from forklight_cli.up.plan import Kind, ProcessPlan
from forklight_core.errors import ForklightError

PROBE_DEADLINE_S = 1.0


def is_ready(plan: ProcessPlan) -> bool:
    """Whether a process answers that it serves."""
    return _console_answers(plan.address) if plan.kind is Kind.CONSOLE else _service_serves(plan.address)


def _service_serves(address: str) -> bool:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from forklight_core.rpc import open_sync_channel

    with open_sync_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=PROBE_DEADLINE_S)
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
