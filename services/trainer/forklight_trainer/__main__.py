"""`python -m forklight_trainer`: the trainer of one run."""

from __future__ import annotations

import asyncio
import sys
import threading

from forklight_core.lifecycle import run_service
from forklight_core.logs import setup_logging
from forklight_core.settings import describe_settings, load_settings
from forklight_core.telemetry import setup_telemetry
from forklight_trainer.settings import TrainerSettings


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.stdout.write(f"{__doc__}\n\nEnvironment:\n{describe_settings(TrainerSettings)}\n")
        return
    settings = load_settings(TrainerSettings)
    setup_logging("trainer", settings.pod)
    shutdown = setup_telemetry("trainer", settings.pod, settings.otlp_endpoint)
    try:
        run_service(lambda stop: run_in_thread(settings, stop))
    finally:
        shutdown()


async def run_in_thread(settings: TrainerSettings, stop: asyncio.Event) -> None:
    """The loop is plain synchronous code; signals reach it as a threading event."""
    from forklight_trainer.app import run

    thread_stop = threading.Event()
    relay = asyncio.create_task(stop.wait())
    relay.add_done_callback(lambda _: thread_stop.set())
    try:
        await asyncio.to_thread(run, settings, thread_stop)
    finally:
        relay.cancel()


if __name__ == "__main__":
    main()
