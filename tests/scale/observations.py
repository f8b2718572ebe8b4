"""From lines of many processes, Redis' INFO and /proc to the figures of a stretch of time."""

from __future__ import annotations

import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
from redis import Redis

from tests.scale.children import Child
from tests.scale.world import World

LOOK_EVERY_S = 1.0


@dataclass(slots=True)
class Lines:
    """What host processes and hands have said since it was taken last."""

    children: list[Child]
    ready: set[Child] = field(default_factory=set)
    durations: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    counts: Counter[str] = field(default_factory=Counter)
    totals: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    took: dict[str, float] = field(default_factory=dict)
    ended: list[tuple[str, str]] = field(default_factory=list)

    def read(self) -> None:
        """Take in what has been said meanwhile."""
        for child in self.children:
            while child.said:
                self._take(child, child.said.popleft().line)

    def _take(self, child: Child, line: dict[str, Any]) -> None:
        if "ready" in line:
            self.ready.add(child)
        elif "ended" in line:
            self.ended.append((line["ended"], line["failure"]))
        else:
            for name, found in line["durations"].items():
                self.durations[name] += found
            new = Counter(line["counts"]) + Counter({"drawn": line.get("drawn", 0)})
            self.counts += new
            self.totals += new
            self.lost += Counter(line.get("lost", {}))
            self.took |= line.get("took", {})
            if "lag_s" in line:
                self.durations["host_lag"].append(line["lag_s"])

    def take_ended(self) -> list[tuple[str, str]]:
        """Pods that ended since the last call."""
        ended, self.ended = self.ended, []
        return ended

    def clear(self) -> None:
        """A new stretch of time begins."""
        self.read()
        self.durations, self.counts, self.lost = defaultdict(list), Counter(), Counter()


@dataclass(slots=True)
class Window:
    """A stretch of time: raw."""

    seconds: float = 0.0
    durations: dict[str, list[float]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    numbers: dict[str, float] = field(default_factory=dict)
    places: Counter[str] = field(default_factory=Counter)
    commands: dict[str, float] = field(default_factory=dict)
    """Share of one core that each Redis command took."""

    def percentile(self, name: str, percent: float) -> float:
        """Of a duration, in seconds; 0 when there is none."""
        found = self.durations.get(name)
        return float(np.percentile(found, percent)) if found else 0.0

    def percentile_of(self, names: Sequence[str], percent: float) -> float:
        """Of several durations together."""
        found = [each for name in names for each in self.durations.get(name, ())]
        return float(np.percentile(found, percent)) if found else 0.0

    def rate(self, name: str) -> float:
        """Of a count, a second."""
        return self.counts[name] / self.seconds if self.seconds else 0.0


class Observer:
    """Opens and closes windows."""

    def __init__(self, world: World, lines: Lines) -> None:
        self._world, self._lines = world, lines
        self.redis = Redis.from_url(world.server.url, socket_timeout=20)
        self._tail = 0

    def watch(self, seconds: float) -> Window:
        """Look on for so long; the figures of that time."""
        self._lines.clear()
        self._read_buffer()
        before, commands = self._times(), self._command_times()
        started = time.monotonic()
        looks: list[dict[str, float]] = []
        while time.monotonic() - started < seconds:
            time.sleep(min(LOOK_EVERY_S, seconds))
            looks.append(self._look())
        self._lines.read()
        window = Window(seconds=time.monotonic() - started)
        window.durations, window.counts = dict(self._lines.durations), self._lines.counts
        window.lost = self._lines.lost
        self._lines.clear()
        after = self._times()
        window.numbers = {name: max(look[name] for look in looks) for name in looks[-1]}
        for name, cpu in after.items():
            window.numbers[f"{name}_cpu"] = (cpu - before.get(name, 0.0)) / window.seconds
        window.numbers["load"] = os.getloadavg()[0]
        for command, used in self._command_times().items():
            window.commands[command] = (used - commands.get(command, 0.0)) / window.seconds
        window.durations["buffer_lag"], window.places = self._read_buffer()
        return window

    def held_by(self, pods: set[str]) -> int:
        """Leases of the task queue that these pods hold."""
        entries = self.redis.xpending_range("forklight:{scale}:tasks", "workers", "-", "+", 100_000)
        return sum(cast("bytes", entry["consumer"]).decode() in pods for entry in cast("list[Any]", entries))

    def _look(self) -> dict[str, float]:
        self._world.check()
        asked = time.perf_counter()
        info = cast("dict[str, Any]", self.redis.info())
        self._lines.durations["redis_info"].append(time.perf_counter() - asked)
        buffer = psutil.Process(self._world.buffer.pid)
        return {
            "redis_mib": info["used_memory"] / 2**20,
            "redis_ops": float(info["instantaneous_ops_per_sec"]),
            "redis_delayed_fsyncs": float(info.get("aof_delayed_fsync", 0)),
            "redis_connections": float(info["connected_clients"]),
            "buffer_mib": buffer.memory_info().rss / 2**20,
            "buffer_connections": float(buffer.num_fds()),
        }

    def _times(self) -> dict[str, float]:
        """CPU seconds so far."""
        children = [child for child in self._lines.children if child.process.poll() is None]
        found = {
            "buffer": _cpu(self._world.buffer.pid),
            "redis": _cpu(self._world.server.process.pid),
            "hands": _cpu(self._world.hands.process.pid),
        }
        hosts = sum(_cpu(child.process.pid) for child in children if child is not self._world.hands)
        return found | {"hosts": hosts}

    def _command_times(self) -> dict[str, float]:
        stats = cast("dict[str, dict[str, Any]]", self.redis.info("commandstats"))
        return {name.removeprefix("cmdstat_"): float(each["usec"]) / 1e6 for name, each in stats.items()}

    def _read_buffer(self) -> tuple[list[float], Counter[str]]:
        """What the buffer process saw of itself since the last call."""
        lags: list[float] = []
        places: Counter[str] = Counter()
        path: Path = self._world.seen_by_buffer
        if path.exists():
            with path.open() as file:
                file.seek(self._tail)
                text = file.read()
            whole, _, _ = text.rpartition("\n")
            self._tail += len(whole.encode()) + (1 if whole else 0)
            for line in whole.splitlines():
                found = json.loads(line)
                lags += found["lags"]
                places += Counter(found["places"])
        return lags, places


def _cpu(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system
