"""The console, wired.

    browser --HTTP--> routes --RunView--> buffer (gRPC), steps.jsonl and judge/log.jsonl

Nothing waits for the console; it may be stopped and started at any time.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles
from starlette.middleware.trustedhost import TrustedHostMiddleware

from forklight_console import metrics
from forklight_console.adapters.live import LiveRunView
from forklight_console.adapters.memory import MemoryPods
from forklight_console.adapters.pods import GrpcPods
from forklight_console.compare.routes import router as compare_router
from forklight_console.compare.shelf import RunShelf
from forklight_console.control.routes import router as control_router
from forklight_console.fleet.cluster import reach_cluster
from forklight_console.fleet.deletion_costs import DeletionCosts
from forklight_console.fleet.routes import router as fleet_router
from forklight_console.guard import Guard, read_token
from forklight_console.ledger.routes import router as ledger_router
from forklight_console.login import router as login_router
from forklight_console.overview.routes import router as overview_router
from forklight_console.parts import open_parts
from forklight_console.ports import RunView
from forklight_console.routes import router as api_router
from forklight_console.sampler import Sampler
from forklight_console.samples.routes import router as samples_router
from forklight_console.settings import ConsoleSettings
from forklight_core.errors import ConfigError, UnavailableError
from forklight_core.rpc import open_channel

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
ROUTERS = (
    api_router,
    login_router,
    overview_router,
    samples_router,
    ledger_router,
    fleet_router,
    control_router,
    compare_router,
)
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
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
    token = read_token(settings.token.get_secret_value(), settings.token_file)
    check_exposure(settings, is_local=host in LOOPBACK, has_token=bool(token))
    async with open_channel(settings.buffer_address) as channel, open_parts(channel, settings) as parts:
        folder = settings.run_folder
        view = LiveRunView(channel, settings.run_id, folder / "steps.jsonl", folder / "judge" / "log.jsonl")
        async with open_own_parts(view, settings) as own:
            parts = {**own, **parts}
            app = make_app(view, settings.run_id, is_local=host in LOOPBACK, token=token, parts=parts)
            config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off")
            with bind(host.strip("[]"), int(port)) as listener:
                await serve_until(QuietServer(config), listener, stop)


@asynccontextmanager
async def open_own_parts(view: RunView, settings: ConsoleSettings) -> AsyncIterator[Mapping[str, object]]:
    """What the overview, the fleet and the comparison look through, and the sampler at work."""
    pods = GrpcPods(settings.run_folder, settings.rollout_address)
    sampler = Sampler(view, pods)
    await asyncio.to_thread(sampler.recall_rounds, settings.run_folder / "evaluations.jsonl")
    cluster, cluster_problem = await asyncio.to_thread(reach_cluster, settings.namespace)
    sampling = asyncio.create_task(sampler.run(settings.sample_every_s))
    costs = DeletionCosts(view, cluster) if cluster is not None and settings.deletion_costs else None
    telling = asyncio.create_task(costs.run()) if costs is not None else None
    try:
        yield {
            "sampler": sampler,
            "cluster": cluster,
            "cluster_problem": cluster_problem,
            "runs": RunShelf(settings.runs_folder or settings.run_folder.resolve().parent),
        }
    finally:
        if telling is not None and not telling.cancel():
            telling.result()
        if not sampling.cancel():
            sampling.result()  # it ended by itself: say why
        await pods.close()
        if cluster is not None:
            cluster.close()


def make_app(
    view: RunView,
    run_id: str,
    *,
    is_local: bool,
    token: str = "",
    parts: Mapping[str, object] | None = None,
) -> FastAPI:
    """The application over any view of a run; `parts` become attributes of `app.state`."""
    app = FastAPI(title="Forklight console", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.state.view = view
    app.state.run_id = run_id
    app.state.guard = Guard(token)
    app.state.has_token = bool(token)
    app.state.sampler = Sampler(view, MemoryPods())
    app.state.cluster, app.state.cluster_problem = None, ""
    app.state.runs = RunShelf(None)
    for name, part in (parts or {}).items():
        setattr(app.state, name, part)
    for each in ROUTERS:
        app.include_router(each)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"), name="static")
    app.middleware("http")(app.state.guard)
    app.middleware("http")(guard_and_count)
    if is_local:  # a page elsewhere must not reach a loopback console through a name of its own
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])
    return app


def check_exposure(settings: ConsoleSettings, *, is_local: bool, has_token: bool) -> None:
    """Refuse to show a run, and to let it be controlled, to whoever reaches the port."""
    if is_local or has_token:
        return
    if not settings.open_to_all:
        raise ConfigError(
            f"the console would listen on {settings.listen}, beyond loopback, without a token: anybody who "
            "reaches it could read and control the run. Set FORKLIGHT_TOKEN or FORKLIGHT_TOKEN_FILE, or "
            "listen on 127.0.0.1, or, behind a proxy that asks for a log-in, set FORKLIGHT_OPEN_TO_ALL=true"
        )
    log.warning("the console listens beyond loopback without a token", extra={"address": settings.listen})


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
