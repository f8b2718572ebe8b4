"""Checks of the machine: interpreter, cores, memory, disk, limits, ports, clock."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from forklight_cli.doctor.finding import Finding, Level, judged

GIB = 2**30
OLDEST_PYTHON = (3, 11)
MEMORY_BYTES = 4 * GIB
DISK_BYTES = 5 * GIB
NUM_FSYNCS = 60
SLOW_FSYNC_S = 0.05
NUM_FILES = 4096
NUM_PORTS = 16


def check_python() -> Finding:
    """The interpreter is one that is tested."""
    version = ".".join(map(str, sys.version_info[:3]))
    fix = "install Python 3.11 or 3.12, then: make setup PYTHON=python3.12"
    return judged("python", sys.version_info >= OLDEST_PYTHON, version, fix=fix, otherwise=Level.FAIL)


def check_cores() -> Finding:
    """Enough cores for a trainer beside a rollout pod."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return judged(
        "cores", cores >= 2, f"{cores}", fix="use a machine with 2 cores or more; with 1 the demo is slow"
    )


def check_memory() -> Finding:
    """Enough memory for the processes of the demo, by what the kernel says is available."""
    path = Path("/proc/meminfo")
    if not path.exists():
        return Finding(
            name="memory", level=Level.WARN, detail="unknown: no /proc/meminfo", fix="4 GiB are enough"
        )
    fields = dict(line.split(":") for line in path.read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    fix = "free some memory, or lower rollout.pods in the run file"
    return judged("memory", available >= MEMORY_BYTES, f"{available / GIB:.1f} GiB available", fix=fix)


def check_disk() -> Finding:
    """Room for run folders here."""
    free = shutil.disk_usage(".").free
    fix = "free some space, or set run.folder to another disk"
    return judged("disk", free >= DISK_BYTES, f"{free / GIB:.1f} GiB free in {Path.cwd()}", fix=fix)


def check_fsync() -> Finding:
    """The ledger and checkpoints wait for the disk: how long."""
    times_s = []
    with tempfile.TemporaryFile(dir=".") as file:
        for _ in range(NUM_FSYNCS):
            file.write(b"x" * 4096)
            started = time.perf_counter()
            file.flush()
            os.fsync(file.fileno())
            times_s.append(time.perf_counter() - started)
    slowest_s = sorted(times_s)[int(NUM_FSYNCS * 0.99)]
    fix = "set run.folder to a local disk; network disks make every commit slow"
    return judged("fsync", slowest_s < SLOW_FSYNC_S, f"p99 {slowest_s * 1000:.1f} ms", fix=fix)


def check_open_files() -> Finding:
    """Each service holds sockets, blobs and logs open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    many = soft == resource.RLIM_INFINITY or soft >= NUM_FILES
    return judged("open files", many, f"limit {soft} (hard {hard})", fix=f"ulimit -n {NUM_FILES}")


def check_ports() -> Finding:
    """Loopback ports can be had."""
    from forklight_core.errors import BusyError
    from forklight_core.ports import free_ports

    try:
        ports = free_ports(NUM_PORTS)
    except BusyError as error:
        fix = "bring the loopback interface up: ip link set lo up"
        return Finding(name="ports", level=Level.FAIL, detail=f"127.0.0.1: {error}", fix=fix)
    return Finding(name="ports", level=Level.PASS, detail=f"{len(ports)} free ports on 127.0.0.1")


def check_clock() -> Finding:
    """The clock is not behind the code, or leases, traces and certificates go wrong."""
    written = datetime.fromtimestamp(Path(__file__).stat().st_mtime, UTC)
    now = datetime.now(UTC)
    fix = "set the clock, for example: timedatectl set-ntp true"
    return judged("clock", now >= written, f"{now:%Y-%m-%d %H:%M:%S} UTC", fix=fix, otherwise=Level.FAIL)
