"""One thread that does things in order while the loop goes on. Its first error comes out at the loop."""

from __future__ import annotations

import concurrent.futures
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Jobs run one after another. After an error the rest is dropped, and `check` raises it."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._jobs: deque[tuple[str, Future[None]]] = deque()
        self._is_broken = False

    @property
    def doing(self) -> str | None:
        """Name of the job at work; None when all are done."""
        return next((name for name, future in self._jobs if not future.done()), None)

    def submit(self, name: str, job: Callable[[], None]) -> None:
        """Do this after everything before it."""
        self.check()
        self._jobs.append((name, self._pool.submit(self._run, job)))

    def check(self) -> None:
        """Raise what a job raised, every time."""
        while self._jobs and self._jobs[0][1].done():
            self._jobs[0][1].result()
            self._jobs.popleft()

    def wait(self, timeout_s: float) -> None:
        """Until the job at work is done, or so long."""
        waiting = [future for _, future in self._jobs if not future.done()]
        concurrent.futures.wait(waiting[:1], timeout=timeout_s)

    def close(self) -> None:
        """Drop what has not begun, and wait for the job at work."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, job: Callable[[], None]) -> None:
        if self._is_broken:
            return
        self._is_broken = True  # unless the job comes to its end
        job()
        self._is_broken = False
