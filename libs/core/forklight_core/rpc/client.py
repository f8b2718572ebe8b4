"""Channels to our services: a deadline on every call, the trace context, statuses as errors of our tree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import grpc
import grpc.aio

from forklight_core.rpc.server import LARGEST_MESSAGE_BYTES
from forklight_core.rpc.status import error_of
from forklight_core.telemetry import SpanKind, current_traceparent, span

DEFAULT_DEADLINE_S = 10.0

# A server that was killed comes back on the same port: connect to it again soon.
_OPTIONS = [
    ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
    ("grpc.max_send_message_length", LARGEST_MESSAGE_BYTES),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]


def open_channel(address: str) -> grpc.aio.Channel:
    """An asyncio channel; calls raise errors of `forklight_core.errors`."""
    return grpc.aio.insecure_channel(
        address,
        options=_OPTIONS,
        interceptors=[cast("grpc.aio.ClientInterceptor", CallerInterceptor(address))],
    )


def open_sync_channel(address: str) -> grpc.Channel:
    """A channel for threads; calls raise errors of `forklight_core.errors`."""
    return grpc.intercept_channel(
        grpc.insecure_channel(address, options=_OPTIONS), SyncCallerInterceptor(address)
    )


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
    return metadata


def _deadline(details: Any) -> float:
    return DEFAULT_DEADLINE_S if details.timeout is None else float(details.timeout)


class CallerInterceptor(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    """Around every unary call of an asyncio channel."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Any],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        name = _method_name(client_call_details.method)
        with span(name, kind=SpanKind.CLIENT):
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
                    error.details() or "",
                    error.trailing_metadata(),
                    f"{name} at {self._address}",
                )
                raise found from None


class SyncCallerInterceptor(grpc.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    """Around every unary call of a channel for threads."""

    def __init__(self, address: str) -> None:
        self._address = address

    def intercept_unary_unary(
        self, continuation: Callable[[Any, Any], Any], client_call_details: Any, request: Any
    ) -> Any:
        name = _method_name(client_call_details.method)
        with span(name, kind=SpanKind.CLIENT):
            call = continuation(_sync_details(client_call_details), request)
            error = call.exception()
            if isinstance(error, grpc.RpcError):
                where = f"{name} at {self._address}"
                raise error_of(
                    call.code(), call.details() or "", call.trailing_metadata() or (), where
                ) from None
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
