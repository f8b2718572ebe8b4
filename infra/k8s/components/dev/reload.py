"""Runs a service and starts it again when one of our files has changed: PID 1 of a pod under development.

`reload.py COMMAND ...`: told to stop, or when the service ends by itself, this ends with it, with its code.
"""

# ruff: noqa: INP001  it travels alone, in a ConfigMap
from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOMS = Path(os.environ.get("FORKLIGHT_DEV_ROOMS", "/opt/rooms"))
SUFFIXES = frozenset({".py", ".lua", ".html", ".css", ".js", ".hpp"})
LOOK_S = 0.5
SETTLE_S = 0.3
DRAIN_S = 30.0
Times = Mapping[str, int]


def changed_at(folder: Path) -> Times:
    """When each file of ours was written."""
    found = {}
    for top in sorted(folder.glob("forklight*")):
        for path in top.rglob("*"):
            if path.suffix in SUFFIXES:
                try:
                    found[str(path)] = path.stat().st_mtime_ns
                except FileNotFoundError:
                    continue
    return found


def wait_settled(folder: Path, before: Times) -> Times:
    """The files once nothing moves any more: a synchronisation writes many."""
    while True:
        time.sleep(SETTLE_S)
        now = changed_at(folder)
        if now == before:
            return now
        before = now


def end(child: subprocess.Popen[bytes]) -> None:
    """As the kubelet does: ask, wait, then kill."""
    child.terminate()
    try:
        child.wait(DRAIN_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def run(command: Sequence[str], stop: threading.Event) -> int:
    """Exit code of the service when it ended by itself or was told to stop with this process."""
    times = changed_at(ROOMS)
    while True:
        child = subprocess.Popen(command)
        while child.poll() is None and not stop.wait(LOOK_S):
            now = changed_at(ROOMS)
            if now != times:
                times = wait_settled(ROOMS, now)
                sys.stderr.write("reload: files changed, starting again\n")
                break
        else:
            if child.poll() is None:
                end(child)
            return child.returncode if child.returncode >= 0 else 128 - child.returncode
        end(child)


def main() -> int:
    """The command line is the service's."""
    if len(sys.argv) < 2:
        sys.stderr.write("reload.py COMMAND ...: expected the service's command\n")
        return 2
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return run(sys.argv[1:], stop)


if __name__ == "__main__":
    sys.exit(main())
