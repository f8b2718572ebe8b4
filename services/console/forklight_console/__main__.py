"""`python -m forklight_console`: the console of one run."""

from __future__ import annotations

from forklight_console.app import run
from forklight_console.settings import ConsoleSettings
from forklight_core.lifecycle import start_service

if __name__ == "__main__":
    start_service("console", __doc__ or "", ConsoleSettings, run)
