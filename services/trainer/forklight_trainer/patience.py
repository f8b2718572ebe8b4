"""Waiting out a peer that is down: a call is made again until it succeeds; the log says where it waits."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from forklight_core.errors import FencedError
from forklight_core.retry import TRANSIENT, backoff_delays

log = logging.getLogger(__name__)

LOG_EVERY_S = 10.0
STOPPING_S = 5.0  # how long a call is still made again after the trainer was told to stop

Result = TypeVar("Result")


class Patience:
    """Calls that outlive an outage. When told to stop, the last error comes out soon."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def call(self, what: str, make_call: Callable[[], Result]) -> Result:
        """The call's result; errors that do not go away by themselves are raised at once."""
        start_s = time.monotonic()
        logged_s, stopped_s = 0.0, 0.0
        for delay in backoff_delays():
            try:
                return make_call()
            except FencedError:
                raise
            except TRANSIENT as error:
                now_s = time.monotonic()
                if not logged_s or now_s - logged_s > LOG_EVERY_S:
                    logged_s = now_s
                    log.warning(
                        "waiting",
                        extra={"what": what, "waited_s": round(now_s - start_s, 1), "reason": str(error)},
                    )
                if self._stop.is_set():
                    stopped_s = stopped_s or now_s
                    if now_s - stopped_s > STOPPING_S:
                        raise
                    time.sleep(delay)
                else:
                    self._stop.wait(delay)
        raise AssertionError("backoff_delays never ends")
