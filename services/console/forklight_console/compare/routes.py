"""The comparison's doors: the page, and the points of one run on the chosen axis."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, Response

from forklight_console.compare.rows import FIGURES, LAST_STEPS, count_keys, differing_keys, total_up
from forklight_console.compare.shelf import RunShelf, ShelvedRun
from forklight_console.page import format_count, format_value
from forklight_console.rendering import render
from forklight_console.steps.door import read_query, series_reply
from forklight_console.steps.series import SeriesQuery, make_series
from forklight_core.errors import NotFoundError

MOST_RUNS = 8
CURVES = {
    "reward_mean": "Reward",
    "length_mean": "Response length, mean",
    "entropy": "Entropy",
    "ratio_max": "Highest importance ratio",
    "clip_share_high": "Clip share, high",
    "correlation": "Probability correlation",
    "staleness_mean": "Staleness, mean",
    "grad_norm": "Gradient norm",
    "tokens_per_s": "Trained tokens/s",
}
router = APIRouter()


class Axis(StrEnum):
    """What the runs are laid over each other by."""

    STEP = "step"
    TIME = "time"
    SAMPLES = "samples"


Chosen = Annotated[list[str], Query(default_factory=list, max_length=MOST_RUNS)]


@router.get("/compare", response_class=HTMLResponse)
async def show_comparison(request: Request, run: Chosen, by: Axis = Axis.STEP) -> Response:
    """The runs to choose from, and what was chosen."""
    shelf = _shelf(request)
    names = await asyncio.to_thread(shelf.names)
    chosen = list(dict.fromkeys(run))
    runs = [await _open(shelf, name) for name in chosen]
    totals = [await asyncio.to_thread(total_up, each) for each in runs]
    context = {
        "names": names,
        "chosen": chosen,
        "by": by,
        "axes": list(Axis),
        "curves": CURVES,
        "totals": totals,
        "figures": FIGURES,
        "last_steps": LAST_STEPS,
        "differing": differing_keys(runs) if len(runs) > 1 else [],
        "num_keys": count_keys(runs),
        "shown": format_value,
        "short": format_count,
    }
    return render(request, "compare.html", context)


@router.get("/api/compare/{name}/series")
async def get_series(
    request: Request, name: str, query: Annotated[SeriesQuery, Depends(read_query)], by: Axis = Axis.STEP
) -> Response:
    """Figures of one run on an axis, thinned."""
    run = await _open(_shelf(request), name)
    asked = replace(query, axis=by.value)
    return series_reply(await asyncio.to_thread(run.log.look, lambda table: make_series(table, asked)))


def _shelf(request: Request) -> RunShelf:
    shelf: RunShelf = request.app.state.runs
    return shelf


async def _open(shelf: RunShelf, name: str) -> ShelvedRun:
    try:
        return await asyncio.to_thread(shelf.open, name)
    except NotFoundError as error:
        raise HTTPException(404, str(error)) from None
