"""The pods of a simulation, spread over host processes: they join, leave, slow down, hang, freeze and die."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from tests.scale.children import Child, start_child
from tests.scale.observations import Lines
from tests.scale.world import World, wait_until

READY_S = 180.0
A_POD_S = 0.1
"""Added to the time for a drain: pods that leave together share this machine."""


@dataclass(slots=True, eq=False)
class Host:
    """A process and the pods that were asked of it and have not ended."""

    child: Child
    pods: set[str] = field(default_factory=set)
    hung: set[str] = field(default_factory=set)
    is_frozen: bool = False

    @property
    def is_alive(self) -> bool:
        return self.child.process.poll() is None


@dataclass(slots=True)
class Fleet:
    """All hosts, the dead ones included: what they said still counts."""

    world: World
    lines: Lines
    hosts: list[Host] = field(default_factory=list)
    faulted: set[str] = field(default_factory=set)
    """Pods that may lose a lease: slow, stalled, frozen or killed on purpose."""
    num_named: int = 0
    not_drained: list[str] = field(default_factory=list)
    """Those that were killed at the end."""

    @property
    def alive(self) -> list[Host]:
        return [host for host in self.hosts if host.is_alive]

    @property
    def pods(self) -> list[str]:
        """Names of those that run, in the order in which they joined."""
        return sorted(pod for host in self.alive for pod in host.pods)

    @property
    def healthy(self) -> list[str]:
        return [pod for pod in self.pods if pod not in self.faulted]

    def make_room(self, num_pods: int, *, fewest_hosts: int) -> None:
        """Open processes for so many pods, and wait until they can start some."""
        num_hosts = max(fewest_hosts, -(-num_pods // self.world.shape.pods_per_host))
        for host in [self._open_host() for _ in range(num_hosts - len(self.alive))]:
            self._wait_ready(host)

    def grow(self, num_pods: int) -> list[str]:
        """Pods join until so many run; returns the new ones."""
        open_hosts = [host for host in self.alive if not host.is_frozen]
        joined: list[str] = []
        while len(self.pods) < num_pods:
            host = min(open_hosts, key=lambda each: len(each.pods))
            self.num_named += 1
            name = f"pod-{self.num_named:05d}"
            host.pods.add(name)
            joined.append(name)
        for host in open_hosts:
            self._tell(host, "start", [name for name in joined if name in host.pods])
        return joined

    def drain(self, names: Sequence[str]) -> float:
        """SIGTERM for these pods; returns how long the last one took to leave."""
        started = time.monotonic()
        self._tell_all("drain", names)
        limit_s = 3 * self.world.shape.drain_s + 60.0 + A_POD_S * len(names)

        def have_left() -> bool:
            self.lines.read()
            self.note_ended()
            return not set(names) & set(self.pods)

        wait_until(have_left, limit_s, f"{len(names)} pods to drain")
        return time.monotonic() - started

    def slow(self, names: Sequence[str]) -> None:
        """These generate several times slower from now on."""
        self._tell_all("slow", names)

    def stall(self, names: Sequence[str]) -> None:
        """These hang, their connections open."""
        self.faulted |= set(names)
        self._tell_all("stall", names)
        for host in self.alive:
            host.hung |= host.pods & set(names)
            host.pods -= host.hung

    def kill_host(self) -> list[str]:
        """kill -9 of the process with the most pods; returns who died."""
        host = max(self.alive, key=lambda each: len(each.pods))
        dead = sorted(host.pods)
        self.faulted |= host.pods
        host.child.kill()
        return dead

    def freeze_host(self) -> Host:
        """SIGSTOP: all its pods stand still, as behind a network that is gone."""
        host = min((each for each in self.alive if each.pods), key=lambda each: len(each.pods))
        self.faulted |= host.pods
        host.is_frozen = True
        host.child.process.send_signal(signal.SIGSTOP)
        return host

    def thaw(self, host: Host) -> None:
        """SIGCONT."""
        host.child.process.send_signal(signal.SIGCONT)
        host.is_frozen = False

    def note_ended(self) -> None:
        """Forget pods that said they are through; AssertionError for one that failed."""
        for name, failure in self.lines.take_ended():
            for host in self.hosts:
                host.pods.discard(name)
            if failure:
                raise AssertionError(f"{name} failed: {failure}; host.log has the rest")

    def close(self) -> None:
        """Drain everybody; processes with pods that hang, or do not come to an end in time, are killed."""
        with contextlib.suppress(AssertionError):
            self.drain(self.pods)
        self.not_drained = self.pods
        for host in self.alive:
            if host.hung or host.pods:
                host.child.kill()
            else:
                host.child.close(30.0)
        self.lines.read()

    def kill_all(self) -> None:
        """Leave nothing behind."""
        for host in self.alive:
            host.child.kill()

    def _open_host(self) -> Host:
        child = start_child("tests.scale.host", asdict(self.world.host_plan()), self.world.folder)
        self.lines.children.append(child)
        host = Host(child)
        self.hosts.append(host)
        return host

    def _wait_ready(self, host: Host) -> None:
        def is_ready() -> bool:
            if not host.is_alive:
                raise AssertionError("a host process ended as it started: host.log says why")
            self.lines.read()
            return host.child in self.lines.ready

        wait_until(is_ready, READY_S, "a host process to start")

    def _tell_all(self, operation: str, names: Iterable[str]) -> None:
        wanted = set(names)
        for host in self.alive:
            self._tell(host, operation, sorted(wanted & host.pods))

    def _tell(self, host: Host, operation: str, names: Sequence[str]) -> None:
        if names:
            host.child.tell({"op": operation, "pods": list(names)})
