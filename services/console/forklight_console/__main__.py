"""`python -m forklight_console`: the console of one run."""

from __future__ import annotations

import sys

from forklight_console.app import run
from forklight_console.settings import ConsoleSettings
from forklight_core.lifecycle import run_service
from forklight_core.logs import setup_logging
from forklight_core.settings import describe_settings, load_settings
from forklight_core.telemetry import setup_telemetry


def main() -> None:
    """Load settings, then serve until told to stop."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.stdout.write(f"{__doc__}\n\nEnvironment:\n{describe_settings(ConsoleSettings)}\n")
        return
    settings = load_settings(ConsoleSettings)
    setup_logging("console", settings.pod)
    shutdown = setup_telemetry("console", settings.pod, settings.otlp_endpoint)
    try:
        run_service(lambda stop: run(settings, stop))
    finally:
        shutdown()


if __name__ == "__main__":
    main()
