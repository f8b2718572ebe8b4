"""Who may ask, and from where: the console's token, its cookie, and the same-origin rule of changes."""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote, urlsplit

from fastapi import HTTPException, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from forklight_core.errors import ConfigError

COOKIE = "forklight-console"
SESSION_S = 12 * 3600
SHORTEST_TOKEN = 16
LOGIN_PATH = "/login"
OPEN_PATHS = frozenset(
    {
        "/healthz",
        LOGIN_PATH,
        "/static/console.css",
        "/static/theme.js",
        "/static/keyboard.js",
        "/static/icon.svg",
    }
)
"""What is answered without a token: health, the form, and the files that the form is drawn with."""


def read_token(token: str, token_file: Path | None) -> str:
    """The token of the settings; empty: none. A file that is named must hold one."""
    if token and token_file is not None:
        raise ConfigError("FORKLIGHT_TOKEN and FORKLIGHT_TOKEN_FILE are both set: which one counts? Set one")
    if token_file is not None:
        try:
            token = token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"FORKLIGHT_TOKEN_FILE {token_file} cannot be read: {error}") from None
        if not token:
            raise ConfigError(f"FORKLIGHT_TOKEN_FILE {token_file} is empty: write a token into it")
    if token and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable()):
        raise ConfigError(
            f"the console's token is unfit: it needs at least {SHORTEST_TOKEN} printable ASCII characters "
            "(python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one)"
        )
    return token


@dataclass(frozen=True, slots=True)
class Guard:
    """Compares tokens and cookies in constant time; the empty token lets everybody in."""

    token: str

    def is_token(self, given: str) -> bool:
        """Whether this is the token."""
        return hmac.compare_digest(sha256(given.encode()).digest(), sha256(self.token.encode()).digest())

    def make_cookie(self, now: float) -> str:
        """A session that ends by itself, and with the token."""
        ends = str(int(now) + SESSION_S)
        return f"{ends}.{self._sign(ends)}"

    def is_cookie(self, given: str, now: float) -> bool:
        """Whether we made this cookie and it has not ended."""
        ends, _, signature = given.partition(".")
        is_ours = hmac.compare_digest(self._sign(ends).encode(), signature.encode())
        return is_ours and ends.isdigit() and int(ends) > now

    def _sign(self, text: str) -> str:
        return hmac.new(self.token.encode(), f"console session {text}".encode(), sha256).hexdigest()

    def lets_in(self, request: Request) -> bool:
        """By the header of a program, or the cookie of a person."""
        if not self.token or request.url.path in OPEN_PATHS:
            return True
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.is_token(given.strip())
        return self.is_cookie(request.cookies.get(COOKIE, ""), time.time())

    async def __call__(
        self, request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        """The middleware: people are sent to the form, programs are told what to send."""
        if self.lets_in(request):
            return await call_next(request)
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"{LOGIN_PATH}?next={quote(target, safe='')}", status_code=303)
        return JSONResponse(
            {"detail": "this console has a token: send it as `Authorization: Bearer TOKEN`, or log in"},
            status_code=401,
            headers={"WWW-Authenticate": "Bearer"},
        )


async def require_same_origin(request: Request) -> None:
    """A dependency of every route that changes something: a page elsewhere must not send the request.

    A browser says where a POST comes from. A program that is none says nothing, and is let in: it has no
    cookie of a person that a foreign page could use.
    """
    fetch_site = request.headers.get("sec-fetch-site")
    if fetch_site is not None:
        if fetch_site != "same-origin":
            raise HTTPException(403, f"refused: the request comes from another site ({fetch_site})")
        return
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host", ""):
        raise HTTPException(403, f"refused: the request comes from {origin}, not from this console")


def is_own_path(path: str) -> bool:
    """Whether a redirect to it stays on this console."""
    return path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
