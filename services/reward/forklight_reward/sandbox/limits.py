"""Limits of a job: the ones its processes set on themselves, and what a look at its process tree says."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from forklight_reward.sandbox.spec import Limits

MIB = 2**20
# Address space is not memory: an interpreter maps libraries and arenas it never touches.
ADDRESS_SPACE_SLACK_BYTES = 256 * MIB
# Where the kernel bounds memory itself: threads with big stacks are honest.
GROUPED_SLACK_BYTES = 1024 * MIB
MAX_OPEN_FILES = 64
# The jail's own first process counts too.
EXTRA_PIDS = 2
CPU_SLACK_S = 1
STACK_BYTES = 64 * MIB
MAX_STACKS = 16

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def process_limits(
    limits: Limits, *, counts_processes: bool, is_command: bool = False, is_grouped: bool = False
) -> dict[str, int]:
    """RLIMIT names and values of one process. The tree as a whole is watched from outside, or by a group."""
    values = {
        "AS": limits.memory_mb * MIB + (GROUPED_SLACK_BYTES if is_grouped else ADDRESS_SPACE_SLACK_BYTES),
        "CPU": int(limits.cpu_s) + CPU_SLACK_S,
        "FSIZE": limits.disk_mb * MIB,
        "NOFILE": MAX_OPEN_FILES,
        "CORE": 0,
        "STACK": STACK_BYTES,  # deep recursion is honest; an interpreter that runs already grows into it
    }
    if is_command:  # the C library gives every thread of what starts under it as much stack
        values["AS"] += STACK_BYTES * min(limits.pids, MAX_STACKS)
    if counts_processes:
        values["NPROC"] = limits.pids + EXTRA_PIDS
    return values


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeUsage:
    """What a process tree uses at one moment."""

    resident_bytes: int
    cpu_s: float
    num_tasks: int


def descendants(root: int) -> list[int]:
    """All living descendants; orphans of a pid namespace stay below its first process."""
    found: list[int] = []
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        try:
            tasks = list(Path(f"/proc/{pid}/task").iterdir())
        except OSError:
            continue
        for task in tasks:
            try:
                children = (task / "children").read_text()
            except OSError:
                continue
            waiting.extend(int(child) for child in children.split())
        found.append(pid)
    return found[1:]


class Tree:
    """What runs below a process, over time: what the dead have used still counts as far as it was seen."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._ticks: dict[tuple[int, str], int] = {}

    def read(self) -> TreeUsage:
        """Memory, CPU and tasks. Memory shared by forks counts once for each here."""
        resident = num_tasks = ticks = 0
        for pid in descendants(self._root):
            try:
                text = Path(f"/proc/{pid}/stat").read_text()
            except OSError:
                continue
            fields = text[text.rindex(")") + 2 :].split()
            own = int(fields[11]) + int(fields[12])
            self._ticks[pid, fields[19]] = own
            ticks += own + int(fields[13]) + int(fields[14])
            num_tasks += int(fields[17])
            resident += int(fields[21]) * _PAGE_BYTES
        # Of children that nobody waits for, their parent's count knows nothing.
        ticks = max(ticks, sum(self._ticks.values()))
        return TreeUsage(resident_bytes=resident, cpu_s=ticks / _TICKS_A_SECOND, num_tasks=num_tasks)


def waits_s(root: int) -> dict[int, float]:
    """Seconds that each task below a process has waited for a processor, where the kernel says."""
    found: dict[int, float] = {}
    for pid in descendants(root):
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                found[int(task.name)] = int((task / "schedstat").read_text().split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            continue
    return found


def proportional_bytes(root: int) -> int | None:
    """Memory of the tree with shared pages divided among their users; None where the kernel does not say."""
    total = 0
    for pid in descendants(root):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        except OSError:
            return None
        for line in text.splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total
