"""The HTTP server of a pod: who may come in, errors in OpenAI's format, start and end.

client --HTTP--> Guard (host, token, count) --> routes --> GenerationService --> engine thread
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forklight_core.errors import UnavailableError
from forklight_rollout.http import metrics
from forklight_rollout.http.exchange import CLIENT_GONE
from forklight_rollout.http.plan import RequestBounds
from forklight_rollout.http.refusals import RefusalError
from forklight_rollout.http.routes import router
from forklight_rollout.http.service import GenerationService, ServiceLimits
from forklight_rollout.settings import LOOPBACK, RolloutSettings

log = logging.getLogger(__name__)

OPEN_PATHS = ("/health",)
KNOWN_PATHS = ("/health", "/v1/models", "/v1/completions", "/v1/chat/completions")
CLOSING_S = 5
"""After a drain, answers that are still written have so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAddress:
    """Where the door is and who may use it."""

    host: str
    port: int
    token: str = ""  # empty: nobody is asked

    @property
    def is_local(self) -> bool:
        return self.host in LOOPBACK


@asynccontextmanager
async def open_http(settings: RolloutSettings) -> AsyncIterator[GenerationService]:
    """A pod's door as its settings want it; without an address nobody comes in."""
    bounds = RequestBounds(
        model=settings.http_model or settings.run_id,
        max_new_tokens=settings.http_max_tokens,
        max_samples=settings.http_max_samples,
    )
    limits = ServiceLimits(max_requests=settings.http_max_requests, max_samples=settings.http_max_samples)
    service = GenerationService(bounds, limits)
    if not settings.http_listen:
        yield service
        return
    host, _, port = settings.http_listen.rpartition(":")
    address = HttpAddress(host=host, port=int(port), token=settings.http_token.get_secret_value())
    async with serve_http(address, service):
        yield service


@asynccontextmanager
async def serve_http(address: HttpAddress, service: GenerationService) -> AsyncIterator[None]:
    """Listen until the block ends; then end every request with what it has, and close."""
    config = uvicorn.Config(
        make_app(address, service),
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=CLOSING_S,
    )
    server = QuietServer(config)
    with bind(address) as listener:
        log.info("listening for HTTP", extra={"address": f"{address.host}:{address.port}"})
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve([listener]))
            try:
                yield
            finally:
                await service.abort()
                await service.wait_written(CLOSING_S)
                server.should_exit = True


def make_app(address: HttpAddress, service: GenerationService) -> FastAPI:
    """The application over a service."""
    app = FastAPI(title="Forklight rollout", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = service
    app.state.created = int(time.time())
    app.include_router(router)
    app.add_exception_handler(RefusalError, _answer_refusal)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(500, _answer_bug)
    app.add_middleware(Guard, address=address)
    return app


class Guard:
    """Before every request: is it for us, and may it come in? After it: a count."""

    def __init__(self, app: ASGIApp, address: HttpAddress) -> None:
        self._app = app
        self._is_local = address.is_local
        self._token = f"Bearer {address.token}".encode() if address.token else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started, status = time.monotonic(), 0

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        refusal = self._check(Headers(scope=scope), scope["path"])
        try:
            if refusal is None:
                await self._app(scope, receive, send_noting_status)
            else:
                await _respond(refusal)(scope, receive, send_noting_status)
            status = status or CLIENT_GONE
        finally:
            path = scope["path"] if scope["path"] in KNOWN_PATHS else "other"
            metrics.count_answer(path, status or 500, time.monotonic() - started)

    def _check(self, headers: Headers, path: str) -> RefusalError | None:
        if self._is_local and not self._token and _host_of(headers) not in LOOPBACK:
            # A page elsewhere must not reach a door without a token through a name of its own.
            return RefusalError(status=403, message="this pod is reached as 127.0.0.1 or localhost only")
        if not self._token or path in OPEN_PATHS:
            return None
        given = headers.get("authorization", "").encode()
        if hmac.compare_digest(given, self._token):
            return None
        return RefusalError(
            status=401,
            message="send the header Authorization: Bearer TOKEN with the token of FORKLIGHT_HTTP_TOKEN",
            reason="invalid_api_key",
        )


class QuietServer(uvicorn.Server):
    """Leaves signals to the service's own lifecycle."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take none."""
        yield


def bind(address: HttpAddress) -> socket.socket:
    """A listening socket, or an error that says why there is none."""
    host = address.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, address.port), family=family, backlog=1024)
    except OSError as error:
        raise UnavailableError(
            f"FORKLIGHT_HTTP_LISTEN: cannot listen on {address.host}:{address.port}: {error}"
        ) from error


def _host_of(headers: Headers) -> str:
    host = headers.get("host", "")
    return host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host


def _respond(refusal: RefusalError) -> Response:
    return JSONResponse(refusal.body(), status_code=refusal.status, headers=refusal.headers)


async def _answer_refusal(request: Request, error: Exception) -> Response:
    if not isinstance(error, RefusalError):
        raise error
    return _respond(error)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """No such path, or not by this method."""
    if not isinstance(error, HTTPException):
        raise error
    message = f"{request.method} {request.url.path}: {error.detail}"
    return _respond(RefusalError(status=error.status_code, message=message))


async def _answer_bug(request: Request, error: Exception) -> Response:
    """A bug; the log has it."""
    return _respond(RefusalError(status=500, message="this request failed; the pod's log says why"))
