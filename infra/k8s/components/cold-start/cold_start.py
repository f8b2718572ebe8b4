"""The cold start of a run file, before its trainer: makes the folder that [model] path names, once."""

# ruff: noqa: INP001  it travels alone, in a ConfigMap
from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from forklight_core.errors import ForklightError
from forklight_core.logs import setup_logging
from forklight_core.runfile import load_run_file
from forklight_trainer.sft.events import Event, event_line
from forklight_trainer.sft.stage import SftOptions, run_sft


def tell(event: Event) -> None:
    """One JSON line an event, for the pod's log."""
    sys.stdout.write(event_line(event) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Exit code 0 when the folder is there; anything else has the pod start this again, where it was."""
    setup_logging("cold-start", os.environ.get("FORKLIGHT_POD", "cold-start"))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    run_file = load_run_file(os.environ["FORKLIGHT_RUN_FILE"])
    out = Path(run_file.model.path)
    fresh = run_file.model_copy(update={"model": run_file.model.model_copy(update={"path": ""})})
    options = SftOptions(device=os.environ.get("FORKLIGHT_DEVICE", "auto"), resume=True, stop=stop)
    if not run_sft(fresh, out, tell, options).is_finished:
        sys.exit("stopped before it was done: it goes on with the next start")


if __name__ == "__main__":
    try:
        main()
    except ForklightError as error:
        sys.exit(f"the cold start failed: {error}")
