"""The overview's doors: the page, and the points of its charts."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, Response

from forklight_console.judge_panel import make_judge_panel
from forklight_console.overview.charts import CHARTS
from forklight_console.page import make_overview, make_step_table
from forklight_console.ports import RunView
from forklight_console.rendering import render
from forklight_console.sampler import Sampler
from forklight_console.steps.door import read_query, series_reply
from forklight_console.steps.series import SeriesQuery
from forklight_core.errors import ForklightError

PAGE_STEPS = 50
PAGE_JUDGE = 20
router = APIRouter()
Asked = Annotated[SeriesQuery, Depends(read_query)]


@router.get("/", response_class=HTMLResponse)
async def show_page(request: Request) -> Response:
    """The overview; says so when the buffer does not answer, and still shows the steps."""
    view: RunView = request.app.state.view
    overview, problem = None, ""
    try:
        overview = make_overview(await view.status())
    except ForklightError as error:
        problem = str(error)
    context = {
        "overview": overview,
        "problem": problem,
        "charts": CHARTS,
        "steps": make_step_table(await view.steps(after=0, limit=PAGE_STEPS)),
        "judge": make_judge_panel(await view.judge(limit=PAGE_JUDGE)),
    }
    return render(request, "overview.html", context)


@router.get("/api/series")
async def get_series(request: Request, query: Asked) -> Response:
    """Figures of the step records by step, thinned."""
    view: RunView = request.app.state.view
    return series_reply(await view.series(query))


@router.get("/api/series/live")
async def get_live(request: Request, query: Asked) -> Response:
    """Queues and pods by unix seconds, since the console started."""
    sampler: Sampler = request.app.state.sampler
    return series_reply(sampler.live(query))


@router.get("/api/series/rounds")
async def get_rounds(request: Request, query: Asked) -> Response:
    """Held-out rounds by policy version."""
    sampler: Sampler = request.app.state.sampler
    return series_reply(sampler.rounds(query))
