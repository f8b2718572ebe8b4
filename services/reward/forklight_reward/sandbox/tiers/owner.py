"""Whose a container or pod is, so that what a dead service left behind can be told from what is in use."""

from __future__ import annotations

import os
import time
from functools import lru_cache
from pathlib import Path

OWNER_LABEL = "forklight-sandbox"
MAX_LIFE_S = 3600.0


def start_of(pid: int) -> str:
    """When a process began, in ticks since the machine did; empty when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    return text[text.rindex(")") + 2 :].split()[19]


@lru_cache(maxsize=1)
def realm() -> str:
    """This start of this machine and this pid namespace: where process numbers mean what they mean here."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115
    return f"{boot[:8]}-{space.strip('pid:[]')}"


def label_value() -> str:
    """Realm, process, its start and now, for a label of a new container or pod."""
    pid = os.getpid()
    return f"{realm()}.{pid}.{start_of(pid)}.{int(time.time())}"


def is_left_over(label: str) -> bool:
    """Whether nobody can be using it any more: its process is gone, or it is older than anything lives."""
    try:
        where, pid, began, made = label.rsplit(".", 3)
        age_s = time.time() - int(made)
        return age_s > MAX_LIFE_S or (where == realm() and start_of(int(pid)) != began)
    except ValueError:
        return True
