"""`python -m forklight_buffer`: the buffer of one run, configured by the environment (see settings.py)."""

from __future__ import annotations

import asyncio
import os

from forklight_buffer.app import run
from forklight_buffer.settings import BufferSettings
from forklight_core.lifecycle import run_service
from forklight_core.logs import setup_logging
from forklight_core.settings import load_settings
from forklight_core.telemetry import setup_telemetry


async def main(stop: asyncio.Event) -> None:
    """Load settings, set up logs and telemetry, run."""
    settings = load_settings(BufferSettings)
    pod = settings.pod or f"buffer-{os.getpid()}"
    setup_logging("buffer", pod)
    shutdown = setup_telemetry("buffer", pod, settings.otlp_endpoint)
    try:
        await run(settings, stop)
    finally:
        shutdown()


if __name__ == "__main__":
    run_service(main)
