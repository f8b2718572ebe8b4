"""`python -m forklight_rollout`: one rollout pod."""

from __future__ import annotations

import sys

from forklight_core.lifecycle import run_service
from forklight_core.logs import setup_logging
from forklight_core.settings import describe_settings, load_settings
from forklight_core.telemetry import setup_telemetry
from forklight_rollout.app import run
from forklight_rollout.settings import RolloutSettings


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.stdout.write(f"{__doc__}\n\nEnvironment:\n{describe_settings(RolloutSettings)}\n")
        return
    settings = load_settings(RolloutSettings)
    setup_logging("rollout", settings.pod)
    shutdown = setup_telemetry("rollout", settings.pod, settings.otlp_endpoint)
    try:
        run_service(lambda stop: run(settings, stop))
    finally:
        shutdown()


if __name__ == "__main__":
    main()
