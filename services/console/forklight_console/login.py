"""The form that turns a token into a cookie."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import RedirectResponse, Response

from forklight_console.guard import COOKIE, LOGIN_PATH, SESSION_S, Guard, is_own_path, require_same_origin
from forklight_console.rendering import render

MOST_FORM_BYTES = 8192
WRONG_WAITS_S = 0.5
router = APIRouter()
log = logging.getLogger(__name__)


@router.get(LOGIN_PATH)
async def show_form(request: Request, next: Annotated[str, Query(max_length=2000)] = "/") -> Response:  # noqa: A002
    """The form; without a token there is nothing to log in to."""
    if not _guard(request).token:
        return RedirectResponse("/", status_code=303)
    return render(request, "login.html", {"next": next if is_own_path(next) else "/", "wrong": False})


@router.post(LOGIN_PATH, dependencies=[Depends(require_same_origin)])
async def log_in(request: Request) -> Response:
    """Set the cookie, or say that this is not the token."""
    form = parse_qs(await _body(request), keep_blank_values=True)
    target = form.get("next", ["/"])[0]
    target = target if is_own_path(target) else "/"
    guard = _guard(request)
    if guard.token and not guard.is_token(form.get("token", [""])[0].strip()):
        log.warning("a wrong token was given", extra={"peer": request.client.host if request.client else "?"})
        await asyncio.sleep(WRONG_WAITS_S)
        return render(request, "login.html", {"next": target, "wrong": True}, status=401)
    response = RedirectResponse(target, status_code=303)
    if guard.token:
        response.set_cookie(
            COOKIE,
            guard.make_cookie(time.time()),
            max_age=SESSION_S,
            httponly=True,
            samesite="strict",
            secure="https" in (request.url.scheme, request.headers.get("x-forwarded-proto")),
        )
    return response


@router.post("/logout", dependencies=[Depends(require_same_origin)])
async def log_out() -> Response:
    """Forget the cookie."""
    response = RedirectResponse(LOGIN_PATH, status_code=303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


async def _body(request: Request) -> str:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_FORM_BYTES:
            raise HTTPException(413, f"the form is longer than {MOST_FORM_BYTES} bytes")
    return body.decode("utf-8", errors="replace")


def _guard(request: Request) -> Guard:
    guard: Guard = request.app.state.guard
    return guard
