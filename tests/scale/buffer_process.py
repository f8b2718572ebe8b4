"""`python -m tests.scale.buffer_process SAID_FILE`: the buffer as it ships, watched from inside.

Beside it run a task that notices how late the event loop is, and a thread that looks 100 times a second at
what the loop's thread does. Every second SAID_FILE gets one line.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

from forklight_buffer import app
from forklight_buffer.settings import BufferSettings
from forklight_core.lifecycle import start_service

LAG_EVERY_S = 0.02
LOOK_EVERY_S = 0.01
SAY_EVERY_S = 1.0
OURS = ("forklight_buffer", "forklight_core")
WAITING = ("select", "epoll", "poll")


class Watch:
    """What was seen since the last line."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._lags: list[float] = []
        self._places: Counter[str] = Counter()
        self._loop_thread = threading.get_ident()

    async def run(self) -> None:
        """Notice lags, and say every second what was seen."""
        threading.Thread(target=self._look, daemon=True).start()
        said = time.monotonic()
        while True:
            before = time.perf_counter()
            await asyncio.sleep(LAG_EVERY_S)
            self._lags.append(max(0.0, time.perf_counter() - before - LAG_EVERY_S))
            if time.monotonic() - said >= SAY_EVERY_S:
                said = time.monotonic()
                self._say()

    def _say(self) -> None:
        places, self._places = self._places, Counter()
        lags, self._lags = self._lags, []
        line = {"lags": [round(lag, 5) for lag in lags], "places": dict(places)}
        with self._place.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _look(self) -> None:
        while True:
            time.sleep(LOOK_EVERY_S)
            frame = sys._current_frames().get(self._loop_thread)
            if frame is not None:
                self._places[place_of(frame)] += 1


def place_of(frame: FrameType) -> str:
    """Our innermost function, and below it the library's; `idle` when the loop waits for something to do."""
    leaf, found = frame.f_code, frame
    if leaf.co_name in WAITING:
        return "idle"
    while found.f_back is not None and not _module(found).startswith(OURS):
        found = found.f_back
    caller = frame.f_back.f_code.co_name if frame.f_back is not None else ""
    library = f"{caller} > {Path(leaf.co_filename).stem}.{leaf.co_name}"
    own = f"{_module(found).removeprefix('forklight_')}.{found.f_code.co_name}"
    if found is frame:
        return own
    # The service's own entry is below everything: then it is the loop that calls a library.
    return library if _module(found).endswith("lifecycle") else f"{own} > {library}"


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


async def run(settings: BufferSettings, stop: asyncio.Event) -> None:
    """The buffer, and the watch beside it."""
    watching = asyncio.create_task(Watch(Path(sys.argv[1])).run())
    try:
        await app.run(settings, stop)
    finally:
        watching.cancel()


if __name__ == "__main__":
    start_service("buffer", __doc__ or "", BufferSettings, run)
