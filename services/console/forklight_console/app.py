"""The console, wired.

    browser --HTTP--> routes --RunView--> buffer (gRPC), steps.jsonl and judge/log.jsonl

Nothing waits for the console; it may be stopped and started at any time.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles
from starlette.middleware.trustedhost import TrustedHostMiddleware

from forklight_console import metrics
from forklight_console.adapters.live import LiveRunView
from forklight_console.ports import RunView
from forklight_console.routes import router
from forklight_console.settings import ConsoleSettings
from forklight_core.errors import ConfigError, UnavailableError
from forklight_core.rpc import open_channel

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


async def run(settings: ConsoleSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set."""
    host, _, port = settings.listen.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(
            f"FORKLIGHT_LISTEN {settings.listen!r} is not host:port, for example 127.0.0.1:7117"
        )
    if host not in LOOPBACK:
        log.warning(
            "the console has no log-in and listens beyond loopback", extra={"address": settings.listen}
        )
    async with open_channel(settings.buffer_address) as channel:
        folder = settings.run_folder
        view = LiveRunView(channel, settings.run_id, folder / "steps.jsonl", folder / "judge" / "log.jsonl")
        app = make_app(view, settings.run_id, is_local=host in LOOPBACK)
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
        with bind(host.strip("[]"), int(port)) as listener:
            await serve_until(QuietServer(config), listener, stop)


def make_app(view: RunView, run_id: str, *, is_local: bool) -> FastAPI:
    """The application over any view of a run."""
    app = FastAPI(title="Forklight console", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.state.view = view
    app.state.run_id = run_id
    app.include_router(router)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static")
    app.middleware("http")(guard_and_count)
    if is_local:  # a page elsewhere must not reach a loopback console through a name of its own
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])
    return app


async def guard_and_count(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Security headers on every answer, and a count."""
    started = time.monotonic()
    response = await call_next(request)
    response.headers.update(SECURITY_HEADERS)
    route = request.scope.get("route")
    path = str(getattr(route, "path", "other"))
    metrics.count_request(path, response.status_code, time.monotonic() - started)
    return response


class QuietServer(uvicorn.Server):
    """Leaves signals to the service's own lifecycle."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take none."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, or an error that says why there is none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UnavailableError(f"the console cannot listen on {host}:{port}: {error}") from error


async def serve_until(server: QuietServer, listener: socket.socket, stop: asyncio.Event) -> None:
    """Run the server and end it when asked to."""

    async def end_when_asked() -> None:
        await stop.wait()
        server.should_exit = True

    async with asyncio.TaskGroup() as group:
        ending = group.create_task(end_when_asked())
        await server.serve([listener])
        ending.cancel()
