"""Channels to our services: a deadline on every call, the trace context, statuses as errors of our tree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import grpc
import grpc.aio

from forklight_core.rpc.identity import Certificates, Identity, find_identity
from forklight_core.rpc.rotating import RotatingChannel, RotatingSyncChannel
from forklight_core.rpc.server import LARGEST_MESSAGE_BYTES
from forklight_core.rpc.status import error_of, with_advice
from forklight_core.rpc.version import HEADER, own_version
from forklight_core.telemetry import SpanKind, current_traceparent, span
from forklight_core.telemetry.conventions import rpc_attributes

DEFAULT_DEADLINE_S = 10.0

# A server that was killed comes back on the same port: connect to it again soon. Of a name with several
# addresses (a headless Service) every pod gets its share of the calls.
_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
    ("grpc.max_send_message_length", LARGEST_MESSAGE_BYTES),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
]


def open_channel(address: str, *, server_name: str = "") -> grpc.aio.Channel:
    """An asyncio channel; calls raise errors of `forklight_core.errors`.

    `server_name`: what the door's certificate says, where the address is one pod's of that name.
    """
    identity = find_identity()
    around = [cast("grpc.aio.ClientInterceptor", CallerInterceptor(address, identity is not None))]
    if identity is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS, interceptors=around)
    options = _options_of(identity, server_name)

    def make(held: Certificates) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(address, _credentials(held), options=options, interceptors=around)

    return RotatingChannel(identity, make)


def open_sync_channel(address: str) -> grpc.Channel:
    """A channel for threads; calls raise errors of `forklight_core.errors`."""
    return grpc.intercept_channel(
        open_bare_channel(address), SyncCallerInterceptor(address, find_identity() is not None)
    )


def open_bare_channel(address: str) -> grpc.Channel:
    """A channel for threads that leaves gRPC's errors as they are: for probes."""
    identity = find_identity()
    if identity is None:
        return grpc.insecure_channel(address, options=_OPTIONS)
    options = _options_of(identity)

    def make(held: Certificates) -> grpc.Channel:
        return grpc.secure_channel(address, _credentials(held), options=options)

    return RotatingSyncChannel(identity, make)


def _credentials(held: Certificates) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(held.authority, held.key, held.certificate)


def _options_of(identity: Identity, server_name: str = "") -> list[tuple[str, int | str]]:
    name = identity.files.name or server_name
    return [*_OPTIONS, ("grpc.ssl_target_name_override", name)] if name else list(_OPTIONS)


@dataclass(frozen=True, slots=True)
class _SyncDetails(grpc.ClientCallDetails):
    """Call details with our deadline and trace context filled in."""

    method: str
    timeout: float
    metadata: tuple[tuple[str, str | bytes], ...]
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


def _method_name(method: str | bytes) -> str:
    return (method.decode() if isinstance(method, bytes) else method).lstrip("/")


def _metadata(details: Any) -> grpc.aio.Metadata:
    metadata = grpc.aio.Metadata(*(details.metadata or ()))
    traceparent = current_traceparent()
    if traceparent:
        metadata["traceparent"] = traceparent
    metadata[HEADER] = own_version()
    return metadata


def _deadline(details: Any) -> float:
    return DEFAULT_DEADLINE_S if details.timeout is None else float(details.timeout)


class CallerInterceptor(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    """Around every unary call of an asyncio channel."""

    def __init__(self, address: str, has_certificates: bool = False) -> None:
        self._address = address
        self._has_certificates = has_certificates

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Any],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        name = _method_name(client_call_details.method)
        with span(name, kind=SpanKind.CLIENT, attributes=rpc_attributes(name)):
            details = grpc.aio.ClientCallDetails(
                client_call_details.method,
                _deadline(client_call_details),
                _metadata(client_call_details),
                client_call_details.credentials,
                client_call_details.wait_for_ready,
            )
            call = await continuation(details, request)
            try:
                return await call
            except grpc.aio.AioRpcError as error:
                found = error_of(
                    error.code(),
                    with_advice(error.code(), error.details() or "", self._has_certificates),
                    error.trailing_metadata(),
                    f"{name} at {self._address}",
                )
                raise found from None


class SyncCallerInterceptor(grpc.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    """Around every unary call of a channel for threads."""

    def __init__(self, address: str, has_certificates: bool = False) -> None:
        self._address = address
        self._has_certificates = has_certificates

    def intercept_unary_unary(
        self, continuation: Callable[[Any, Any], Any], client_call_details: Any, request: Any
    ) -> Any:
        name = _method_name(client_call_details.method)
        with span(name, kind=SpanKind.CLIENT, attributes=rpc_attributes(name)):
            call = continuation(_sync_details(client_call_details), request)
            error = call.exception()
            if isinstance(error, grpc.RpcError):
                where = f"{name} at {self._address}"
                details = with_advice(call.code(), call.details() or "", self._has_certificates)
                raise error_of(call.code(), details, call.trailing_metadata() or (), where) from None
            return call


def _sync_details(details: Any) -> _SyncDetails:
    return _SyncDetails(
        method=details.method,
        timeout=_deadline(details),
        metadata=tuple(_metadata(details)),
        credentials=details.credentials,
        wait_for_ready=getattr(details, "wait_for_ready", None),
        compression=getattr(details, "compression", None),
    )
