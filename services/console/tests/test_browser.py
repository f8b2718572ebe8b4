"""The pages in a browser: charts of 10,000 steps, what is live, the keyboard, the log-in, no scripts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from forklight_console.adapters.memory import MemoryPods
from forklight_console.app import make_app
from forklight_console.compare.shelf import RunShelf
from forklight_console.sampler import Sampler
from services.console.tests.seeded_run import RUN_ID, SPIKE_RATIO, make_pods, make_status, make_steps
from services.console.tests.serving import FileView, serve_app

if TYPE_CHECKING:
    from playwright.sync_api import Page

NUM_STEPS = 10_000
TOKEN = "a-token-of-the-tests-0123"
RATIO_CHART = "figure[data-chart*='ratio_max']"


@dataclass(frozen=True, slots=True)
class Served:
    """A console, and what it shows."""

    url: str
    view: FileView
    sampler: Sampler
    steps_path: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("runs")
    for name, seed, num_steps in ((RUN_ID, 7, NUM_STEPS), ("baseline-0001", 8, 300)):
        (root / name).mkdir()
        (root / name / "run.toml").write_text(f"[optimizer]\nlearning_rate = {seed}e-6\npods = 4\n")
        with (root / name / "steps.jsonl").open("w") as file:
            file.writelines(json.dumps(record) + "\n" for record in make_steps(num_steps, seed=seed))
    steps_path = root / RUN_ID / "steps.jsonl"
    view = FileView(reply=make_status()).read_from(steps_path)
    view.log.records(after=0, limit=1)  # as a live console reads them at its start
    sampler = Sampler(view, MemoryPods(answers=make_pods()))
    app = make_app(view, RUN_ID, is_local=True, parts={"sampler": sampler, "runs": RunShelf(root)})
    with serve_app(app) as url:
        yield Served(url, view, sampler, steps_path)


def wait_until(page: Page, expression: str) -> None:
    """Until it is true in the page, asked from outside: the page's policy lets nothing be evaluated in it."""
    deadline = time.monotonic() + 30
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"never true: {expression}"
        page.wait_for_timeout(50)


def open_overview(page: Page, served: Served) -> None:
    page.goto(served.url)
    page.wait_for_selector("body[data-charts=drawn]")


def test_charts_show_one_bad_step_of_many_and_go_closer_when_dragged_over(page: Page, served: Served) -> None:
    open_overview(page, served)
    assert page.locator(".chart canvas").count() >= 11
    values = page.evaluate("sources[0].values['ratio_max']")
    assert max(values) == SPIKE_RATIO
    assert len(values) < 1100
    box = page.locator(f"{RATIO_CHART} .u-over").bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.77, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.79, middle, steps=4)
    page.mouse.up()
    wait_until(page, "sources[0].bucket === 1 && sources[0].x.length > 100")
    low, high = page.evaluate("[sources[0].x[0], sources[0].x.at(-1)]")
    assert 7_500 < low < 7_777 < high < 8_000
    assert page.evaluate("Math.max(...sources[0].values['ratio_max'])") == SPIKE_RATIO
    page.get_by_role("button", name="all", exact=True).click()
    wait_until(page, "sources[0].x[0] === 1")


def test_new_steps_and_a_new_state_are_drawn_without_loading_the_page_again(
    page: Page, served: Served
) -> None:
    open_overview(page, served)
    page.evaluate("window.isSamePage = true")
    record = next(iter(make_steps(1))) | {"step": NUM_STEPS + 1, "entropy": 3.25}
    with served.steps_path.open("a") as file:
        file.write(json.dumps(record) + "\n")
    served.view.reply.step = NUM_STEPS + 1
    wait_until(page, "sources[0].lastStep === 10001 && sources[0].values.entropy.at(-1) === 3.25")
    page.wait_for_selector(f".tile dd:text-is('{NUM_STEPS + 1}')")
    assert page.evaluate("window.isSamePage")


def test_pages_are_reached_by_keys_and_the_theme_stays(page: Page, served: Served) -> None:
    page.goto(f"{served.url}/fleet")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#help").is_visible()
    dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    page.keyboard.press("t")
    light = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert dark != light
    page.keyboard.press("g")
    page.keyboard.press("m")
    page.wait_for_url("**/compare")
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == light
    page.goto(f"{served.url}/fleet")
    page.keyboard.press("/")
    page.keyboard.type("g r")  # in a field, keys are letters
    assert page.locator("#q").input_value() == "g r"


def test_runs_are_drawn_over_each_other_when_chosen(page: Page, served: Served) -> None:
    page.goto(f"{served.url}/compare")
    page.locator(f"input[value='{RUN_ID}']").check()
    page.locator("input[value='baseline-0001']").check()
    page.locator("#by").select_option("samples")
    page.get_by_role("button", name="Compare").click()
    page.wait_for_selector("body[data-charts=drawn]")
    keys = page.locator("figure[data-field=reward_mean] .keys span")
    assert keys.count() == 2
    assert "by=samples" in page.url
    assert page.locator("section[aria-label='Run files'] tbody tr").count() == 1


def test_a_person_logs_in_and_out_with_the_token(page: Page) -> None:
    app = make_app(FileView(reply=make_status()), RUN_ID, is_local=True, token=TOKEN)
    app.state.view.read_from(Path("/nonexistent/steps.jsonl"))
    with serve_app(app) as url:
        page.goto(f"{url}/fleet?q=a")
        assert page.url.endswith("/login?next=%2Ffleet%3Fq%3Da")
        page.locator("#token").fill("wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=That is not the token")
        page.locator("#token").fill(TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_url("**/fleet?q=a")
        page.get_by_role("button", name="Log out").click()
        page.wait_for_url("**/login")
        page.goto(url)
        assert "/login" in page.url
        page.goto("about:blank")
