"""The fleet's door."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, Response

from forklight.v1 import buffer_pb2
from forklight_console.fleet.cluster import look_at_cluster
from forklight_console.fleet.rows import holder_rows, make_fleet, queue_rows
from forklight_console.ports import RunView
from forklight_console.rendering import render
from forklight_console.sampler import Sampler
from forklight_core.cluster import Cluster
from forklight_core.errors import ForklightError

router = APIRouter()


@router.get("/fleet", response_class=HTMLResponse)
async def show_fleet(request: Request, q: Annotated[str, Query(max_length=200)] = "") -> Response:
    """Pods as of the sampler's last look; `q` is a part of a name."""
    view: RunView = request.app.state.view
    sampler: Sampler = request.app.state.sampler
    cluster: Cluster | None = request.app.state.cluster
    if not sampler.looked_at:
        await sampler.look()
    status, problem = buffer_pb2.GetStatusReply(), ""
    try:
        status = await view.status()
    except ForklightError as error:
        problem = str(error)
    context = {
        "fleet": make_fleet(sampler.answers, status.version, search=q),
        "search": q,
        "age": f"{max(0.0, time.time() - sampler.looked_at):.0f} s",
        "queues": queue_rows(status),
        "holders": holder_rows(status),
        "problem": problem,
        "cluster": await look_at_cluster(cluster, request.app.state.cluster_problem),
    }
    return render(request, "fleet.html", context)
