"""A gRPC server with health, reflection and one interceptor: errors to statuses, a span, a count."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from forklight_core.errors import ForklightError, InvalidInputError, UnavailableError, VersionSkewError
from forklight_core.rpc.identity import Certificates, Identity, find_identity
from forklight_core.rpc.status import status_of, trailing_of
from forklight_core.rpc.version import check_caller
from forklight_core.telemetry import SpanKind, counter, histogram, span
from forklight_core.telemetry.conventions import rpc_attributes

log = logging.getLogger(__name__)

LARGEST_MESSAGE_BYTES = 64 * 2**20
GRACE_S = 2.0
READY = "ready"
CONNECTION_AGE_S = 300.0
"""Callers connect anew from time to time, and so find pods that were added since."""
CONNECTION_GRACE_S = 3600.0
"""What a call under way may still take."""
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Inner: TypeAlias = Callable[[Any, Context], Awaitable[Any]]
Streaming: TypeAlias = Callable[[Any, Context], AsyncIterator[Any]]
_OWN_SERVICES = ("/grpc.health.", "/grpc.reflection.")


@dataclass(frozen=True, slots=True)
class Registration:
    """One service of a server: the generated `add_..._to_server`, the servicer, its full proto name."""

    add_to_server: Callable[[Any, grpc.aio.Server], None]
    servicer: object
    service_name: str


class RpcServer:
    """A running server, and what its health checks are told:

    ""          alive: SERVING for as long as it answers, also while it starts or drains
    "ready"     whether it can do its work now; false for good once it was told to stop
    full names  of its services: as "ready"
    """

    def __init__(self, address: str, checks: Any, service_names: tuple[str, ...]) -> None:
        self.address = address
        self.service_names = service_names
        self._checks = checks
        self._is_leaving = False

    async def set_serving(self, serving: bool) -> None:
        """Whether it can do its work; who leaves cannot any more."""
        status = SERVING if serving and not self._is_leaving else NOT_SERVING
        for name in (READY, *self.service_names):
            await self._checks.set(name, status)

    async def leave(self) -> None:
        """Say so before anything else ends."""
        self._is_leaving = True
        await self.set_serving(False)

    async def leave_when(self, stop: asyncio.Event) -> None:
        """As soon as the process is told to stop."""
        await stop.wait()
        await self.leave()


@asynccontextmanager
async def serve(
    listen: str,
    registrations: Sequence[Registration],
    *,
    serving: bool = True,
    stop: asyncio.Event | None = None,
    health_listen: str = "",
) -> AsyncIterator[RpcServer]:
    """Listen until the block ends; then finish what runs, within a grace of 2 s.

    With `stop`, health says NOT_SERVING once it is set, while the block still drains. `health_listen`: a
    second door, in plaintext, that answers health checks only.
    """
    server = _make_server()
    for registration in registrations:
        registration.add_to_server(registration.servicer, server)
    checks = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    names = tuple(registration.service_name for registration in registrations)
    reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    port = _bind(server, listen, find_identity())
    running = RpcServer(f"{listen.rpartition(':')[0]}:{port}", checks, names)
    await checks.set("", SERVING)
    await running.set_serving(serving)
    async with AsyncExitStack() as closing:
        if health_listen:
            await closing.enter_async_context(_serve_health(health_listen, checks))
        await server.start()
        closing.push_async_callback(server.stop, GRACE_S)
        closing.push_async_callback(running.leave)
        if stop is not None:
            leaving = asyncio.create_task(running.leave_when(stop))
            closing.callback(leaving.cancel)
        log.info("listening", extra={"address": running.address})
        yield running


def _make_server() -> grpc.aio.Server:
    return grpc.aio.server(
        interceptors=[DoorInterceptor()],
        options=[
            ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
            ("grpc.max_send_message_length", LARGEST_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
            ("grpc.max_connection_age_ms", int(CONNECTION_AGE_S * 1000)),
            ("grpc.max_connection_age_grace_ms", int(CONNECTION_GRACE_S * 1000)),
        ],
    )


@asynccontextmanager
async def _serve_health(listen: str, checks: Any) -> AsyncIterator[None]:
    """For probes that cannot show a certificate: they learn no more than whether it serves."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    port = _bind(server, listen, None)
    await server.start()
    log.info("answering health checks", extra={"address": f"{listen.rpartition(':')[0]}:{port}"})
    try:
        yield
    finally:
        await server.stop(None)


def _bind(server: grpc.aio.Server, listen: str, identity: Identity | None) -> int:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise InvalidInputError(f"cannot listen on {listen!r}: expected host:port, for example 127.0.0.1:0")
    try:
        if identity is None:
            return server.add_insecure_port(listen)
        return server.add_secure_port(listen, _server_credentials(identity))
    except RuntimeError as error:
        raise UnavailableError(f"cannot listen on {listen}: {error}. Is the port taken?") from error


def _server_credentials(identity: Identity) -> grpc.ServerCredentials:
    """Callers have to show a certificate of our authority; ours is looked at anew for every connection."""

    def configure() -> tuple[Certificates, grpc.ServerCertificateConfiguration]:
        held = identity.certificates()
        pair = [(held.key, held.certificate)]
        return held, grpc.ssl_server_certificate_configuration(pair, root_certificates=held.authority)

    in_use, first = configure()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal in_use
        held, configuration = configure()
        if held is in_use:
            return None
        in_use = held
        return configuration

    asked = cast("Callable[[], grpc.ServerCertificateConfiguration]", fetch)  # None: as before
    return grpc.dynamic_ssl_server_credentials(first, asked, require_client_authentication=True)


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
        metadata = {item[0]: item[1] for item in handler_call_details.invocation_metadata}
        try:
            check_caller(metadata, method)
        except VersionSkewError as error:
            log.error("caller of another version refused", extra={"reason": str(error)})
            return _refusing(error)
        if method.startswith(_OWN_SERVICES):
            return handler
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                _streaming(cast("Streaming", handler.unary_stream), method),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if handler.unary_unary is None:
            return handler
        answer = _answering(cast("Inner", handler.unary_unary), method, str(metadata.get("traceparent", "")))
        return grpc.unary_unary_rpc_method_handler(
            answer, handler.request_deserializer, handler.response_serializer
        )


def _refusing(error: VersionSkewError) -> grpc.RpcMethodHandler[Any, Any]:
    """Answers whatever was asked with the error."""

    async def answer(_: Any, context: Context) -> Any:
        context.set_trailing_metadata(trailing_of(error))
        await context.abort(status_of(error), str(error))

    return grpc.unary_unary_rpc_method_handler(answer)


def _answering(inner: Inner, method: str, traceparent: str) -> Inner:
    name = method.lstrip("/")

    async def answer(request: Any, context: Context) -> Any:
        started, status = time.monotonic(), grpc.StatusCode.OK
        try:
            with span(name, traceparent=traceparent, kind=SpanKind.SERVER, attributes=rpc_attributes(name)):
                return await inner(request, context)
        except Exception as error:
            status = status_of(error)
            await _refuse(error, method, context)
        finally:
            labels = {"rpc.method": method, "rpc.status": status.name}
            counter("forklight.rpc.calls").add(1, labels)
            histogram("forklight.rpc.duration").record(time.monotonic() - started, {"rpc.method": method})

    return answer


def _streaming(inner: Streaming, method: str) -> Any:
    """A stream lasts as long as its caller wants: it is counted when it ends, and has no span."""

    async def answer(request: Any, context: Context) -> AsyncIterator[Any]:
        status = grpc.StatusCode.OK
        try:
            async for item in inner(request, context):
                yield item
        except Exception as error:
            status = status_of(error)
            await _refuse(error, method, context)
        finally:
            counter("forklight.rpc.calls").add(1, {"rpc.method": method, "rpc.status": status.name})

    return answer


async def _refuse(error: Exception, method: str, context: Context) -> None:
    """End a call with what went wrong."""
    if isinstance(error, ForklightError):
        context.set_trailing_metadata(trailing_of(error))
        await context.abort(status_of(error), str(error))
    log.error("call failed", extra={"method": method}, exc_info=error)
    await context.abort(
        grpc.StatusCode.INTERNAL,
        f"{method} failed: {type(error).__name__}: {error}; the server's log has the rest",
    )
