"""`python -m forklight_trainer`: the trainer of one run."""

from __future__ import annotations

import asyncio
import threading

from forklight_core.lifecycle import start_service
from forklight_trainer.settings import TrainerSettings


async def run_in_thread(settings: TrainerSettings, stop: asyncio.Event) -> None:
    """The loop is plain synchronous code; signals reach it as a threading event."""
    from forklight_trainer.app import run
    from forklight_trainer.engines import follow, is_follower

    thread_stop = threading.Event()
    relay = asyncio.create_task(stop.wait())
    relay.add_done_callback(lambda _: thread_stop.set())
    try:
        await asyncio.to_thread(follow if is_follower() else run, settings, thread_stop)
    finally:
        relay.cancel()


if __name__ == "__main__":
    start_service("trainer", __doc__ or "", TrainerSettings, run_in_thread)
