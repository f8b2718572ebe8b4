"""The HTTP door of the ledger."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, Response

from forklight_console.ledger.page import make_ledger_page
from forklight_console.ledger.ports import LedgerSource
from forklight_console.ports import RunView
from forklight_console.problems import as_http, status_of
from forklight_console.rendering import render
from forklight_console.routes import as_json
from forklight_console.shown import page_link, visible
from forklight_core.errors import ForklightError

router = APIRouter()

LETTERS_SHOWN = 200
COMMITS_SHOWN = 50
After = Annotated[str, Query(pattern=r"^([A-Za-z0-9_.-]{1,64}:\d{1,19})?$")]


@router.get("/ledger", response_class=HTMLResponse)
async def show_ledger(request: Request, after: After = "") -> Response:
    """States, what is stuck, dead letters, commits; `after` is further down the commits."""
    source, view = source_of(request), _view(request)
    try:
        status, letters, ledger = await asyncio.gather(
            view.status(), source.dead_letters(LETTERS_SHOWN), source.ledger(after=after, limit=COMMITS_SHOWN)
        )
    except ForklightError as error:
        context: dict[str, object] = {"problem": visible(str(error), most=2000), "page": None}
        return render(request, "ledger.html", context, status=status_of(error))
    context = {
        "problem": "",
        "page": make_ledger_page(status, letters, ledger),
        "next": page_link({}, after=ledger.next) if ledger.next else "",
        "is_first": not after,
    }
    return render(request, "ledger.html", context)


@router.get("/api/ledger")
async def get_ledger(request: Request, after: After = "") -> Response:
    """ReadLedgerReply as JSON."""
    try:
        return as_json(await source_of(request).ledger(after=after, limit=COMMITS_SHOWN))
    except ForklightError as error:
        raise as_http(error) from error


def source_of(request: Request) -> LedgerSource:
    """What this console reads the ledger through."""
    source: LedgerSource | None = getattr(request.app.state, "ledger", None)
    if source is None:
        raise HTTPException(503, "this console is not connected to a buffer")
    return source


def _view(request: Request) -> RunView:
    view: RunView = request.app.state.view
    return view
