"""A gRPC server with health, reflection and one interceptor: errors to statuses, a span, a count."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from forklight_core.errors import ForklightError, InvalidInputError, UnavailableError
from forklight_core.rpc.status import status_of, trailing_of
from forklight_core.telemetry import SpanKind, counter, histogram, span

log = logging.getLogger(__name__)

LARGEST_MESSAGE_BYTES = 64 * 2**20
GRACE_S = 2.0
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Inner: TypeAlias = Callable[[Any, Context], Awaitable[Any]]
_OWN_SERVICES = ("/grpc.health.", "/grpc.reflection.")


@dataclass(frozen=True, slots=True)
class Registration:
    """One service of a server: the generated `add_..._to_server`, the servicer, its full proto name."""

    add_to_server: Callable[[Any, grpc.aio.Server], None]
    servicer: object
    service_name: str


@dataclass(frozen=True, slots=True)
class RpcServer:
    """A running server."""

    address: str
    server: grpc.aio.Server
    health: Any
    service_names: tuple[str, ...]

    async def set_serving(self, serving: bool) -> None:
        """What health checks are told, for every service and for the whole."""
        status = SERVING if serving else NOT_SERVING
        for name in ("", *self.service_names):
            await self.health.set(name, status)


@asynccontextmanager
async def serve(
    listen: str, registrations: Sequence[Registration], *, serving: bool = True
) -> AsyncIterator[RpcServer]:
    """Listen until the block ends; then finish what runs, within a grace of 2 s."""
    server = grpc.aio.server(
        interceptors=[DoorInterceptor()],
        options=[
            ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
            ("grpc.max_send_message_length", LARGEST_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
        ],
    )
    for registration in registrations:
        registration.add_to_server(registration.servicer, server)
    checks = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    names = tuple(registration.service_name for registration in registrations)
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    port = _bind(server, listen)
    await server.start()
    running = RpcServer(f"{listen.rpartition(':')[0]}:{port}", server, checks, names)
    await running.set_serving(serving)
    log.info("listening", extra={"address": running.address})
    try:
        yield running
    finally:
        await running.set_serving(False)
        await server.stop(GRACE_S)


def _bind(server: grpc.aio.Server, listen: str) -> int:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise InvalidInputError(f"cannot listen on {listen!r}: expected host:port, for example 127.0.0.1:0")
    try:
        return server.add_insecure_port(listen)
    except RuntimeError as error:
        raise UnavailableError(f"cannot listen on {listen}: {error}. Is the port taken?") from error


class DoorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Around every unary call of our own services."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:  # nobody knows the method
            return handler  # type: ignore[unreachable]
        if handler.unary_unary is None or method.startswith(_OWN_SERVICES):
            return handler
        metadata = {item[0]: item[1] for item in handler_call_details.invocation_metadata}
        answer = _answering(cast("Inner", handler.unary_unary), method, str(metadata.get("traceparent", "")))
        return grpc.unary_unary_rpc_method_handler(
            answer, handler.request_deserializer, handler.response_serializer
        )


def _answering(inner: Inner, method: str, traceparent: str) -> Inner:
    async def answer(request: Any, context: Context) -> Any:
        started, status = time.monotonic(), grpc.StatusCode.OK
        try:
            with span(method.lstrip("/"), traceparent=traceparent, kind=SpanKind.SERVER):
                return await inner(request, context)
        except ForklightError as error:
            status = status_of(error)
            context.set_trailing_metadata(trailing_of(error))
            await context.abort(status, str(error))
        except Exception as error:
            status = grpc.StatusCode.INTERNAL
            log.exception("call failed", extra={"method": method})
            await context.abort(
                status, f"{method} failed: {type(error).__name__}: {error}; the server's log has the rest"
            )
        finally:
            labels = {"rpc.method": method, "rpc.status": status.name}
            counter("forklight.rpc.calls").add(1, labels)
            histogram("forklight.rpc.duration").record(time.monotonic() - started, {"rpc.method": method})

    return answer
