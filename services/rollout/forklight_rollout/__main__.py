"""`python -m forklight_rollout`: one rollout pod, configured by the environment (see --help)."""

from __future__ import annotations

import asyncio
import os
import sys

from forklight_core.lifecycle import run_service
from forklight_core.logs import setup_logging
from forklight_core.settings import describe_settings, load_settings
from forklight_core.telemetry import setup_telemetry
from forklight_rollout.settings import RolloutSettings


async def main(stop: asyncio.Event) -> None:
    """Load settings, set up logs and telemetry, run."""
    setup_logging("rollout", "")  # so that wrong settings are explained as a log line, too
    settings = load_settings(RolloutSettings)
    pod = settings.pod or f"rollout-{os.getpid()}"
    setup_logging("rollout", pod)
    shutdown = setup_telemetry("rollout", pod, settings.otlp_endpoint)
    try:
        from forklight_rollout.app import run

        await run(settings, stop)
    finally:
        shutdown()


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.stdout.write(f"{__doc__}\n\n{describe_settings(RolloutSettings)}\n")
    else:
        run_service(main)
