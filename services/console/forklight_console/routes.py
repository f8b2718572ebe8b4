"""The HTTP door for programs: JSON of the run, and a health check."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import Response
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from forklight_console.page import parse_state
from forklight_console.ports import RunView
from forklight_core.errors import DeadlineError, ForklightError, UnavailableError

router = APIRouter()


@router.get("/api/status")
async def get_status(request: Request) -> Response:
    """GetStatusReply as JSON, with the names of the proto."""
    try:
        return as_json(await view_of(request).status())
    except ForklightError as error:
        raise as_http(error) from error


@router.get("/api/steps")
async def get_steps(
    request: Request,
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> list[dict[str, object]]:
    """Step records behind `after`: the newest ones, oldest first."""
    return [dict(step) for step in await view_of(request).steps(after=after, limit=limit)]


@router.get("/api/samples")
async def get_samples(
    request: Request,
    state: str = "",
    after: str = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """A page of samples: `state` is a name such as trained, `after` the `next` of the page before."""
    try:
        wanted = parse_state(state)
    except ValueError:
        raise HTTPException(422, f"no sample state is called {state!r}") from None
    try:
        return as_json(await view_of(request).samples(state=wanted, after=after, limit=limit))
    except ForklightError as error:
        raise as_http(error) from error


@router.get("/api/events")
async def get_events(
    request: Request,
    after: Annotated[str, Query(pattern="^[0-9]{0,19}$")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    newest_first: bool = True,
) -> Response:
    """A page of what was reported about the run; `after` is the `next` of the page before."""
    try:
        events = await view_of(request).events(after=after, limit=limit, newest_first=newest_first)
    except ForklightError as error:
        raise as_http(error) from error
    return as_json(events)


@router.get("/api/judge")
async def get_judge(
    request: Request, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000
) -> list[dict[str, object]]:
    """What the judge measured of itself: the newest windows, probes and switches, oldest first."""
    return [dict(record) for record in await view_of(request).judge(limit=limit)]


@router.get("/healthz")
async def get_health() -> dict[str, str]:
    """The console itself; the buffer has a health check of its own."""
    return {"status": "ok"}


def view_of(request: Request) -> RunView:
    """The run this console shows."""
    view: RunView = request.app.state.view
    return view


def as_json(message: Message) -> Response:
    """A proto message as a JSON response."""
    import json

    fields = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return Response(json.dumps(fields), media_type="application/json")


def as_http(error: ForklightError) -> HTTPException:
    """An error of our tree as a status."""
    if isinstance(error, UnavailableError | DeadlineError):
        return HTTPException(503, str(error))
    return HTTPException(404 if isinstance(error, LookupError) else 502, str(error))
