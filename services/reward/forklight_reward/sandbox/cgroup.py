"""Control groups, v1 and v2 behind one class: memory, tasks and CPU of a job, counted by the kernel.

Used where this process may write them; elsewhere jobs are watched from outside, and the version says so.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from forklight_reward.sandbox.limits import MIB
from forklight_reward.sandbox.spec import Limits

logger = logging.getLogger(__name__)

CONTROLLERS = ("memory", "pids", "cpuacct")
PREFIX = "forklight-"
REMOVE_LIMIT_S = 2.0
_numbers = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupUsage:
    """What a group has used so far."""

    cpu_s: float
    memory_peak_bytes: int
    num_oom_kills: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Where this process may make groups: a folder a controller, all the same one in v2."""

    version: str
    folders: dict[str, Path]

    def make(self) -> Group:
        """A new, empty group."""
        name = f"job-{next(_numbers)}"
        group = Group(self.version, {key: folder / name for key, folder in self.folders.items()})
        for folder in group.places():
            folder.mkdir()
        return group

    def close(self) -> None:
        """Remove our own folders, which are empty by now."""
        for folder in dict.fromkeys(self.folders.values()):
            with contextlib.suppress(OSError):
                folder.rmdir()


class Group:
    """One job's group."""

    def __init__(self, version: str, folders: dict[str, Path]) -> None:
        self._is_v2 = version == "v2"
        self._folders = folders

    def places(self) -> list[Path]:
        """Its folders, each once."""
        return list(dict.fromkeys(self._folders.values()))

    def limit(self, limits: Limits, *, num_own: int = 0) -> None:
        """Set the bounds that the kernel enforces; `num_own` processes are ours, not the job's."""
        memory, pids = self._folders["memory"], self._folders["pids"]
        size = str(limits.memory_mb * MIB)
        (memory / ("memory.max" if self._is_v2 else "memory.limit_in_bytes")).write_text(size)
        swap = memory / ("memory.swap.max" if self._is_v2 else "memory.memsw.limit_in_bytes")
        with contextlib.suppress(OSError):  # absent where the kernel does not count swap
            if swap.exists():
                swap.write_text("0" if self._is_v2 else size)
        (pids / "pids.max").write_text(str(limits.pids + num_own))

    def adopt(self, pid: int) -> None:
        """Take in a process; its children follow."""
        for folder in self.places():
            (folder / "cgroup.procs").write_text(str(pid))

    def usage(self) -> GroupUsage:
        """CPU, memory and kills so far."""
        memory, cpu = self._folders["memory"], self._folders["cpuacct"]
        if self._is_v2:
            cpu_s = read_field(cpu / "cpu.stat", "usage_usec") / 1e6
            kills = read_field(memory / "memory.events", "oom_kill")
            peak = memory / "memory.peak"
            peak = peak if peak.exists() else memory / "memory.current"
        else:
            cpu_s = int((cpu / "cpuacct.usage").read_text()) / 1e9
            kills = read_field(memory / "memory.oom_control", "oom_kill")
            peak = memory / "memory.max_usage_in_bytes"
        return GroupUsage(cpu_s=cpu_s, memory_peak_bytes=int(peak.read_text()), num_oom_kills=kills)

    def kill(self) -> None:
        """SIGKILL to every process in it."""
        with contextlib.suppress(OSError):
            if self._is_v2:
                (self.places()[0] / "cgroup.kill").write_text("1")
                return
            for pid in (self._folders["pids"] / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)

    def remove(self) -> None:
        """Give it back; the kernel may need a moment after the last process."""
        deadline = time.monotonic() + REMOVE_LIMIT_S
        for folder in self.places():
            while True:
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        logger.warning("a control group could not be removed", extra={"group": str(folder)})
                        break
                    self.kill()
                    time.sleep(0.005)
                else:
                    break


def read_field(path: Path, name: str) -> int:
    """One number of a file of `name value` lines; 0 when it is not there."""
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def own_groups(text: str) -> dict[str, str]:
    """Controller to path, from /proc/self/cgroup; v2 under the empty name."""
    found = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path.lstrip("/")
    return found


def candidates(root: Path, own: dict[str, str]) -> list[tuple[str, dict[str, Path]]]:
    """Places to try, best first: below our own groups, else at the top of what is mounted."""
    found: list[tuple[str, dict[str, Path]]] = []
    if (root / "cgroup.controllers").exists():
        bases = dict.fromkeys((root / own.get("", ""), root))
        found += [("v2", dict.fromkeys(CONTROLLERS, base)) for base in bases]
    elif all((root / name).is_dir() for name in CONTROLLERS):
        ours = {name: root / name / own.get(name, "") for name in CONTROLLERS}
        tops = {name: root / name for name in CONTROLLERS}
        found += [("v1", ours)] if all(path.is_dir() for path in ours.values()) else []
        found.append(("v1", tops))
    return found


def enable(base: Path) -> None:
    """v2: hand the controllers down. A group with processes may not, so ours moves into a leaf."""
    wanted = {"memory", "pids", "cpu"}
    if not wanted <= set((base / "cgroup.controllers").read_text().split()):
        raise OSError(f"{base} does not have the controllers {sorted(wanted)}")
    control = base / "cgroup.subtree_control"
    if wanted <= set(control.read_text().split()):
        return
    change = " ".join(f"+{name}" for name in sorted(wanted))
    try:
        control.write_text(change)
    except OSError:
        leaf = base / f"{PREFIX}service"
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text(str(os.getpid()))
        control.write_text(change)


def open_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Groups | None:
    """Groups that this process may use; None, with the reason in the log, where there are none."""
    reason = f"{root} has neither v2 nor the v1 controllers {', '.join(CONTROLLERS)}"
    for version, bases in candidates(root, own_groups(own.read_text())):
        own_name = f"{PREFIX}{os.getpid()}-{next(_numbers)}"
        folders = {name: base / own_name for name, base in bases.items()}
        groups = Groups(version=version, folders=folders)
        try:
            if version == "v2":
                enable(bases["memory"])
            for base in dict.fromkeys(bases.values()):
                remove_stale(base)
            for folder in dict.fromkeys(folders.values()):
                folder.mkdir(exist_ok=True)
            if version == "v2":
                enable(folders["memory"])
            probe = groups.make()
            probe.limit(Limits())
            probe.usage()
            probe.remove()
        except (OSError, ValueError) as error:
            reason = str(error)
            groups.close()
            continue
        return groups
    logger.info("no control groups: jobs are watched from outside", extra={"reason": reason})
    return None


def remove_stale(base: Path) -> None:
    """Groups of processes that are gone."""
    for folder in base.glob(f"{PREFIX}[0-9]*"):
        pid = folder.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            for child in [*folder.glob("job-*"), folder]:
                with contextlib.suppress(OSError):
                    child.rmdir()
