"""How a process ends when it is told to."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

HANGING = """
import asyncio, sys, time
from forklight_core.lifecycle import run_service

async def main(stop):
    print("running", flush=True)
    await stop.wait()
    {after}

run_service(main, stop_within_s=0.5)
"""


def stop(after: str) -> tuple[int, float]:
    """Exit code, and the time from SIGTERM to the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING.format(after=after)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None and process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGTERM)
        told_at = time.monotonic()
        return process.wait(30), time.monotonic() - told_at


def test_a_process_that_hangs_is_gone_when_its_time_is_over_and_one_that_ends_is_not_hurried() -> None:
    code, took_s = stop("time.sleep(60)")  # the loop itself hangs, as behind a dead peer
    assert code == 1
    assert took_s < 20
    assert stop("pass")[0] == 0
