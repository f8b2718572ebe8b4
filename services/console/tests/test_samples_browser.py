"""A sample of 80,000 tokens in a browser: drawn at once, coloured, turned by map and keyboard."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services.console.tests.real_run import seen_run

if TYPE_CHECKING:
    from playwright.sync_api import Page

DRAWING_S = 4.0
"""Script, style and layout of the page on a busy machine; 80,000 spans take many times as much."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A console over a real buffer, both in a thread of their own."""
    folder, ready, stop = tmp_path_factory.mktemp("seen"), threading.Event(), threading.Event()
    found: list[str] = []

    def length_of(sample: str) -> int:
        return 80_000 if sample.endswith("g00000000/s000") else 12

    async def run() -> None:
        import uvicorn

        from forklight_console.app import bind

        async with seen_run(folder, length_of) as opened:
            with bind("127.0.0.1", 0) as listener:
                config = uvicorn.Config(
                    opened.app, log_config=None, access_log=False, lifespan="off", ws="none"
                )
                server = uvicorn.Server(config)
                serving = asyncio.create_task(server.serve([listener]))
                found.append(f"http://127.0.0.1:{listener.getsockname()[1]}")
                ready.set()
                await asyncio.to_thread(stop.wait)
                server.should_exit = True
                await serving

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert ready.wait(30)
    yield found[0]
    stop.set()
    thread.join(15)


def test_a_long_sample_is_drawn_at_once_and_turned(page: Page, address: str, tmp_path: Path) -> None:
    page.on("dialog", lambda dialog: pytest.fail(f"the page asks {dialog.message}"))
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    page.goto(f"{address}/samples/g00000000/s000")
    page.wait_for_selector("#map:not([hidden])")
    metrics = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
    spent = sum(metrics[name] for name in ("ScriptDuration", "LayoutDuration", "RecalcStyleDuration"))
    assert page.locator("#tokens i").count() == 2000 and spent < DRAWING_S, spent
    page.keyboard.press("]")
    page.wait_for_selector('#tokens[data-start="2000"]')
    box = page.locator("#map").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 5)
    page.wait_for_selector('#tokens[data-start^="39"], #tokens[data-start^="38"]')
    token = page.locator("#tokens i").nth(1500)
    low = token.evaluate("each => getComputedStyle(each).backgroundColor")
    page.keyboard.press("c")
    assert page.locator("#response").get_attribute("data-mode") == "advantage"
    page.keyboard.press("c")
    assert token.evaluate("each => getComputedStyle(each).backgroundColor") != low
    token.hover()
    assert "version 1" in page.locator("#pointed").inner_text()
    page.keyboard.press("l")
    page.wait_for_url("**/s001")
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert page.screenshot(path=tmp_path / f"sample-{scheme}.png", full_page=True)


def test_search_is_used_by_keyboard(page: Page, address: str) -> None:
    page.goto(f"{address}/samples")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "prompt_id"
    page.keyboard.type("p1")
    page.keyboard.press("Enter")
    page.wait_for_url("**prompt_id=p1*")
    assert page.locator("#hits tbody tr").count() == 2
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.locator("#hits tr.chosen").count() == 1
    page.keyboard.press("Enter")
    page.wait_for_url("**/samples/g00000001/*")


def test_an_action_goes_through_its_form(page: Page, address: str) -> None:
    page.goto(f"{address}/control")
    form = page.locator('form[action="/control/pause"]')
    form.locator('input[name="reason"]').fill("looked at <i>it</i>")
    form.locator("button").click()
    page.get_by_role("heading", name="Pause?").wait_for()
    page.locator("form.row button").click()
    page.wait_for_url("**/control#log")
    assert "the run is paused" in page.locator("#log").inner_text()
    assert "looked at <i>it</i>" in page.locator("#log").inner_text()
