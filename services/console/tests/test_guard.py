"""Who is let in: tokens, cookies, other sites, and a console that would be open to all."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from forklight_console.adapters.memory import MemoryRunView
from forklight_console.app import make_app, run
from forklight_console.guard import COOKIE, SESSION_S, Guard, is_own_path, read_token, require_same_origin
from forklight_console.settings import ConsoleSettings
from forklight_core.errors import ConfigError

TOKEN = "0123456789abcdef-token"
URL = "http://127.0.0.1"


def client_of(token: str) -> TestClient:
    app = make_app(MemoryRunView(), "run", is_local=True, token=token)
    return TestClient(app, base_url=URL, follow_redirects=False)


def paths_of(app: FastAPI) -> set[str]:
    found = {str(path).replace("{name}", "x") for path in app.openapi()["paths"]}
    assert {"/", "/fleet", "/compare", "/api/status", "/api/series"} <= found
    return found


def test_every_path_but_health_and_the_form_needs_the_token() -> None:
    client = client_of(TOKEN)
    paths = paths_of(client.app) | {"/api/openapi.json", "/static/charts.js", "/nowhere"}  # type: ignore[arg-type]
    for path in paths - {"/healthz", "/login"}:
        for answer in (client.get(path), client.post(path)):
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert client.get("/healthz").status_code == 200
    assert client.get("/login").status_code == 200


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN} ", 200),
        (f"Bearer {TOKEN}x", 401),
        ("Bearer", 401),
        (TOKEN, 401),
    ],
)
def test_a_program_is_let_in_by_its_header(header: str, status: int) -> None:
    assert (
        client_of(TOKEN).get("/api/series?fields=a", headers={"authorization": header}).status_code == status
    )


def test_the_form_gives_a_cookie_that_scripts_cannot_read_and_other_sites_cannot_send() -> None:
    client = client_of(TOKEN)
    sent = client.get("/fleet?q=1", headers={"accept": "text/html"})
    assert (sent.status_code, sent.headers["location"]) == (303, "/login?next=%2Ffleet%3Fq%3D1")
    wrong = client.post("/login", data={"token": "guess", "next": "/fleet"})
    assert (wrong.status_code, COOKIE in wrong.cookies) == (401, False)
    right = client.post("/login", data={"token": TOKEN, "next": "/fleet?q=1"})
    assert (right.status_code, right.headers["location"]) == (303, "/fleet?q=1")
    flags = right.headers["set-cookie"].lower()
    assert "httponly" in flags and "samesite=strict" in flags and "secure" not in flags
    assert TOKEN not in flags
    assert client.get("/api/series?fields=a").status_code == 200
    assert client.post("/logout").headers["location"] == "/login"
    assert client.get("/api/series?fields=a").status_code == 401
    over_tls = client.post("/login", data={"token": TOKEN}, headers={"x-forwarded-proto": "https"})
    assert "secure" in over_tls.headers["set-cookie"].lower()


def test_a_form_never_leads_elsewhere_nor_grows() -> None:
    client = client_of(TOKEN)
    for target in ("https://evil.example", "//evil.example", "/\\evil.example", "/a\nb"):
        assert not is_own_path(target)
        assert client.post("/login", data={"token": TOKEN, "next": target}).headers["location"] == "/"
    assert client.post("/login", data={"token": "x" * 9000}).status_code == 413


def test_cookies_end_and_cannot_be_made_by_others() -> None:
    guard, now = Guard(TOKEN), time.time()
    cookie = guard.make_cookie(now)
    assert guard.is_cookie(cookie, now)
    assert not guard.is_cookie(cookie, now + SESSION_S + 1)
    ends, _, signature = cookie.partition(".")
    for forged in (
        f"{int(ends) + 9}.{signature}",
        "",
        ".",
        ends,
        f"{ends}.",
        Guard("b" * 20).make_cookie(now),
        "\xe9.\xe9",
    ):
        assert not guard.is_cookie(forged, now)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "same-origin", "origin": "https://proxy.example"}, 200),
        ({"origin": URL}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "none"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": f"{URL}:81"}, 403),
    ],
)
def test_a_change_is_taken_from_this_console_only(headers: dict[str, str], status: int) -> None:
    app = FastAPI()

    @app.post("/change", dependencies=[Depends(require_same_origin)])
    async def change() -> str:
        return "changed"

    assert TestClient(app, base_url=URL).post("/change", headers=headers).status_code == status
    assert client_of(TOKEN).post("/login", data={"token": TOKEN}, headers=headers).status_code == (
        303 if status == 200 else 403
    )


def test_a_token_comes_from_one_place_and_is_long_enough(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    assert (read_token("", path), read_token(TOKEN, None), read_token("", None)) == (TOKEN, TOKEN, "")
    with pytest.raises(ConfigError, match="both set"):
        read_token(TOKEN, path)
    with pytest.raises(ConfigError, match="at least 16"):
        read_token("short", None)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token("", tmp_path / "none")
    path.write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        read_token("", path)


async def test_listening_beyond_loopback_without_a_token_is_refused(tmp_path: Path) -> None:
    settings = ConsoleSettings(
        run_file=tmp_path / "run.toml",
        run_folder=tmp_path,
        run_id="run",
        listen="0.0.0.0:0",
        buffer_address="127.0.0.1:1",
    )
    with pytest.raises(ConfigError, match="beyond loopback, without a token"):
        await run(settings, asyncio.Event())
    stop = asyncio.Event()
    stop.set()
    await run(settings.model_copy(update={"open_to_all": True}), stop)
    token = {"token_file": tmp_path / "token"}
    (tmp_path / "token").write_text(TOKEN)
    await run(settings.model_copy(update=token), stop)
