"""A console served for a browser, and the browser."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from forklight_console.adapters.memory import MemoryRunView
from forklight_console.app import bind
from forklight_console.ports import StepRecord
from forklight_console.steps.log import StepLog
from forklight_console.steps.series import Series, SeriesQuery, make_series

NO_CHROMIUM = "needs Chromium on PATH (apt-get install chromium) or its path in FORKLIGHT_TEST_CHROMIUM"
NO_PLAYWRIGHT = "needs the package playwright (pip install playwright)"


def find_chromium() -> str | None:
    """A browser that playwright can drive."""
    named = os.environ.get("FORKLIGHT_TEST_CHROMIUM")
    return named or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )


class FileView(MemoryRunView):
    """A run in memory but for its steps, which lie in a file and are read as a live run's are."""

    __slots__ = ("log",)

    def read_from(self, path: Path) -> FileView:
        """Take the steps of a file."""
        self.log = StepLog(path)
        return self

    async def steps(self, *, after: int, limit: int) -> list[StepRecord]:
        return self.log.records(after=after, limit=limit)

    async def series(self, query: SeriesQuery) -> Series:
        return self.log.look(lambda table: make_series(table, query))


@contextmanager
def serve_app(app: FastAPI) -> Iterator[str]:
    """The address of an app that a thread serves."""
    with bind("127.0.0.1", 0) as listener:
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 10
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)
