"""The HTTP door of run control. Every change is a POST of this origin, confirmed on a page of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, HTTPException, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from forklight_console.control.actions import ACTIONS, LONGEST_DRAIN_S, Asked, perform
from forklight_console.control.page import make_control_page, make_way
from forklight_console.control.ports import ControlDesk
from forklight_console.guard import require_same_origin
from forklight_console.problems import status_of
from forklight_console.rendering import render
from forklight_console.sampler import Sampler
from forklight_console.shown import visible
from forklight_core.errors import ForklightError, InvalidInputError

router = APIRouter()
log = logging.getLogger(__name__)

MOST_FORM_BYTES = 64 * 1024
MOST_REASON = 500
PATIENCE_S = 3.0
"""A drain takes minutes: after so long the page is shown, and the action's line says when it is done."""
Name = Annotated[str, Path(pattern=f"^({'|'.join(ACTIONS)})$")]


@router.get("/control", response_class=HTMLResponse)
async def show_control(request: Request) -> Response:
    """What can be done, and what was done."""
    return await _show(request)


@router.post("/control/{name}", response_class=HTMLResponse, dependencies=[Depends(require_same_origin)])
async def act(request: Request, name: Name) -> Response:
    """Ask whether it is meant; with `confirmed`, do it."""
    form = await _form(request)
    desk = control_of(request)
    try:
        asked = _asked(request, name, form)
        if form.get("confirmed") != "yes":
            way = await make_way(desk, asked)
            return render(
                request,
                "control_confirm.html",
                {"action": ACTIONS[name], "name": name, "asked": asked, "way": way},
            )
        task = asyncio.create_task(perform(desk, asked))
        running: set[asyncio.Task[str]] = request.app.state.__dict__.setdefault("running_actions", set())
        running.add(task)
        task.add_done_callback(lambda done: _ended(running, done))
        done, _ = await asyncio.wait({task}, timeout=PATIENCE_S)
        if done:
            task.result()
    except ForklightError as error:
        context = {"failed": f"{ACTIONS[name].title}: {visible(str(error), most=2000)}"}
        return await _show(request, context, status=status_of(error))
    return RedirectResponse("/control#log", status_code=303)


def _ended(running: set[asyncio.Task[str]], task: asyncio.Task[str]) -> None:
    """Nobody waits for it any more: its error is in the audit line; here it is only taken note of."""
    running.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("an action failed", extra={"reason": str(error)})


async def _show(request: Request, more: Mapping[str, object] | None = None, *, status: int = 200) -> Response:
    sampler: Sampler = request.app.state.sampler
    page = await make_control_page(request.app.state.view, control_of(request), sampler.answers)
    return render(request, "control.html", {"page": page, "actions": ACTIONS, **(more or {})}, status=status)


def control_of(request: Request) -> ControlDesk:
    """The doors of this console."""
    desk: ControlDesk | None = getattr(request.app.state, "control", None)
    if desk is None:
        raise HTTPException(503, "this console is not connected to a run")
    return desk


def _asked(request: Request, name: str, form: Mapping[str, str]) -> Asked:
    reason = form.get("reason", "").strip()
    if not reason:
        raise InvalidInputError("a reason is needed: say why, for those who look later")
    if len(reason) > MOST_REASON:
        raise InvalidInputError(f"the reason has {len(reason)} characters: at most {MOST_REASON} are kept")
    try:
        deadline_s = float(form.get("deadline_s") or 60)
    except ValueError:
        raise InvalidInputError("the deadline is no number of seconds") from None
    if not 0 < deadline_s <= LONGEST_DRAIN_S:
        raise InvalidInputError(f"the deadline is {deadline_s:g} s: give 1 to {LONGEST_DRAIN_S:g}")
    sampler: Sampler = request.app.state.sampler
    return Asked(
        action=name,
        reason=reason,
        target=form.get("target", "").strip()[:4000],
        who=_who(request),
        deadline_s=deadline_s,
        pods=sampler.answers,
    )


def _who(request: Request) -> str:
    peer = request.client.host if request.client else "unknown"
    return f"console, {'token' if request.app.state.has_token else 'no token'}, from {peer}"


async def _form(request: Request) -> dict[str, str]:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_FORM_BYTES:
            raise HTTPException(413, f"the form is longer than {MOST_FORM_BYTES} bytes")
    fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=2000)
    return {name: ",".join(values) if name == "target" else values[0] for name, values in fields.items()}
