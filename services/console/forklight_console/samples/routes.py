"""The HTTP door of samples and groups."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from forklight_console.problems import as_http, status_of
from forklight_console.rendering import render
from forklight_console.routes import as_json
from forklight_console.samples import searching
from forklight_console.samples.group_page import make_group_page
from forklight_console.samples.groups_page import make_groups_page
from forklight_console.samples.ports import SampleDesk
from forklight_console.samples.sample_page import (
    export,
    find_sample,
    make_sample_page,
    read_payload,
)
from forklight_console.samples.tokens import advantage_level, make_map, make_window
from forklight_console.shown import page_link, visible
from forklight_core.errors import ForklightError, NotFoundError

router = APIRouter()

Group = Annotated[str, Path(pattern=r"^(g\d{8,12}|e\d{6,12}-\d{5})$")]
Sample = Annotated[str, Path(pattern=r"^s\d{3,4}$")]
Start = Annotated[int, Query(ge=0, lt=2**31)]


@router.get("/samples", response_class=HTMLResponse)
async def show_search(request: Request) -> Response:
    """The form, and a page of what it finds; a field that cannot be is said, and nothing is asked."""
    values = {name: value[:300] for name, value in request.query_params.items()}
    context: dict[str, object] = {
        "values": values,
        "words": searching,
        "problem": "",
        "reply": None,
        "rows": [],
    }
    status = 200
    try:
        reply = await desk_of(request).source.search(searching.read_form(values))
        context |= {
            "reply": reply,
            "rows": [searching.make_row(record) for record in reply.samples],
            "next": page_link(values, after=reply.next) if reply.next else "",
            "first": page_link(values, after="") if values.get("after") else "",
        }
    except searching.FormError as error:
        context["problem"], status = str(error), 422
    except ForklightError as error:
        context["problem"], status = visible(str(error)), status_of(error)
    return render(request, "samples_search.html", context, status=status)


@router.get("/api/search")
async def get_search(request: Request) -> Response:
    """SearchSamplesReply as JSON; the fields of the form are the parameters."""
    try:
        return as_json(await desk_of(request).source.search(searching.read_form(dict(request.query_params))))
    except searching.FormError as error:
        raise HTTPException(422, str(error)) from None
    except ForklightError as error:
        raise as_http(error) from error


@router.get("/samples/{group}/{sample}", response_class=HTMLResponse)
async def show_sample(request: Request, group: Group, sample: Sample, start: Start = 0) -> Response:
    """A sample, with a window of its tokens."""
    desk = desk_of(request)
    try:
        found = await desk.source.group(_group_id(request, group))
        page = await make_sample_page(desk, found, sample, start)
    except ForklightError as error:
        return _problem(request, error)
    level = advantage_level(page.advantage)
    return render(request, "samples_sample.html", {"page": page, "level": level, "group": group})


@router.get("/samples/{group}/{sample}/window", response_class=HTMLResponse)
async def show_window(request: Request, group: Group, sample: Sample, start: Start = 0) -> Response:
    """Only the tokens, for the script that turns pages."""
    desk = desk_of(request)
    try:
        found = find_sample(await desk.source.group(_group_id(request, group)), sample)
        payload = await asyncio.to_thread(read_payload, desk, found)
        if payload.arrays is None:
            raise NotFoundError(payload.problem)
        window = await asyncio.to_thread(make_window, payload.arrays, payload.spans, desk.text, start)
    except ForklightError as error:
        raise as_http(error) from error
    return render(request, "samples_window.html", {"window": window})


@router.get("/samples/{group}/{sample}/map")
async def get_map(request: Request, group: Group, sample: Sample) -> Response:
    """The whole response in at most 1,200 buckets."""
    desk = desk_of(request)
    try:
        found = find_sample(await desk.source.group(_group_id(request, group)), sample)
        payload = await asyncio.to_thread(read_payload, desk, found)
        if payload.arrays is None:
            raise NotFoundError(payload.problem)
        return JSONResponse(await asyncio.to_thread(make_map, payload.arrays, payload.spans))
    except ForklightError as error:
        raise as_http(error) from error


@router.get("/api/samples/{group}/{sample}")
async def get_sample(request: Request, group: Group, sample: Sample) -> Response:
    """All of a sample as one JSON object: record, verdicts, tokens."""
    desk = desk_of(request)
    try:
        found = await desk.source.group(_group_id(request, group))
        chosen = find_sample(found, sample)
        payload = await asyncio.to_thread(read_payload, desk, chosen)
        content = await asyncio.to_thread(lambda: json.dumps(export(desk, found, chosen, payload)))
    except ForklightError as error:
        raise as_http(error) from error
    name = f"{request.app.state.run_id}-{group}-{sample}.json"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type="application/json", headers=headers)


@router.get("/groups", response_class=HTMLResponse)
async def show_groups(
    request: Request,
    prompt_id: Annotated[str, Query(max_length=300)] = "",
    after: Annotated[str, Query(pattern=r"^\d{0,19}$")] = "",
) -> Response:
    """Training groups, newest first."""
    try:
        reply = await desk_of(request).source.groups(prompt_id=prompt_id, after=after, limit=searching.PAGE)
    except ForklightError as error:
        return _problem(request, error)
    context = {
        "page": make_groups_page(reply),
        "prompt_id": prompt_id,
        "next": page_link({"prompt_id": prompt_id}, after=reply.next) if reply.next else "",
        "is_first": not after,
    }
    return render(request, "samples_groups.html", context)


@router.get("/groups/{group}", response_class=HTMLResponse)
async def show_group(
    request: Request, group: Group, to: Annotated[str, Query(pattern=r"^(s\d{3,4})?$")] = ""
) -> Response:
    """The samples of a group; `to` is the one that the others are compared with."""
    desk = desk_of(request)
    try:
        page = await make_group_page(desk, await desk.source.group(_group_id(request, group)), to)
    except ForklightError as error:
        return _problem(request, error)
    return render(request, "samples_group.html", {"page": page})


def desk_of(request: Request) -> SampleDesk:
    """What this console looks at samples through."""
    desk: SampleDesk | None = getattr(request.app.state, "samples", None)
    if desk is None:
        raise HTTPException(503, "this console is not connected to a buffer")
    return desk


def _group_id(request: Request, group: str) -> str:
    return f"{request.app.state.run_id}/{group}"


def _problem(request: Request, error: ForklightError) -> Response:
    context = {"problem": visible(str(error), most=2000)}
    return render(request, "samples_problem.html", context, status=status_of(error))
