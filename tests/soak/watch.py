"""What a soak leaves behind and how its memory grows."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from services.reward.bench.roles import Roles

PR_SET_CHILD_SUBREAPER = 36
SETTLING_SHARE = 0.3
NUM_PARTS = 10
LEAST_POINTS = 20
GONE_S = 10.0
MIB = 2**20


@dataclass(slots=True)
class Memory:
    """Resident bytes over time, apart for every life of every process."""

    lives: dict[tuple[str, int], list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))

    async def watch(self, roles: Roles, every_s: float) -> None:
        """Look until cancelled. A process counts with the workers below it, jails included."""
        while True:
            found = await asyncio.to_thread(roles.resident_bytes)
            now = time.monotonic()
            for name, size in found.items():
                if size:
                    self.lives[name, roles.num_starts[name]].append((now, size))
            await asyncio.sleep(every_s)

    def slopes(self) -> Mapping[str, tuple[float, float, float]]:
        """By role, of its longest life without its first part: (MiB in the middle, MiB a minute, minutes)."""
        longest: dict[str, list[tuple[float, int]]] = {}
        for (name, _), points in self.lives.items():
            settled = points[int(len(points) * SETTLING_SHARE) :]
            if len(settled) >= LEAST_POINTS and len(settled) > len(longest.get(name, [])):
                longest[name] = settled
        return {name: _fit(points) for name, points in longest.items()}


def _fit(points: list[tuple[float, int]]) -> tuple[float, float, float]:
    """Through the least of every tenth: jails and calls come and go, what is kept stays."""
    tenths = np.array_split(np.array(points, dtype=np.float64), NUM_PARTS)
    times = np.array([part[:, 0].mean() for part in tenths]) / 60
    sizes = np.array([part[:, 1].min() for part in tenths]) / MIB
    slope = float(np.polyfit(times - times[0], sizes, 1)[0])
    return float(np.median(sizes)), slope, (points[-1][0] - points[0][0]) / 60


def adopt_orphans() -> None:
    """From here on whatever loses its parent below this process becomes its child, and can be counted."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def left_processes() -> list[str]:
    """Children of this process that live on after a moment; the dead are buried."""
    end = time.monotonic() + GONE_S
    while True:
        living = []
        for child in psutil.Process().children(recursive=True):
            try:
                if child.status() == psutil.STATUS_ZOMBIE:
                    _bury(child.pid)
                else:
                    living.append(f"{child.pid} {' '.join(child.cmdline())[:200]}")
            except psutil.NoSuchProcess:
                continue
        if not living or time.monotonic() > end:
            return living
        time.sleep(0.1)


def _bury(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def left_files(scratch: Path) -> list[str]:
    """What the services keep in the folder that was theirs for things of the moment."""
    return sorted(str(place.relative_to(scratch)) for place in scratch.rglob("*"))


def mounts() -> set[str]:
    """Mounts that this process sees: jails must leave none."""
    return set(Path("/proc/self/mounts").read_text().splitlines())
