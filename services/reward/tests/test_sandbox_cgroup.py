"""Control groups: v1 as this machine has it, v2 by the layout of its files."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from forklight_reward.sandbox.cgroup import PREFIX, Group, open_groups, own_groups
from forklight_reward.sandbox.jail import open_jail
from forklight_reward.sandbox.jail_runner import JailRunner
from forklight_reward.sandbox.result import Class
from forklight_reward.sandbox.runner import Job, JobKind
from forklight_reward.sandbox.spec import Limits

LIMITS = Limits(cpu_s=1.0, wall_s=5.0, memory_mb=64, pids=6, output_bytes=2**20, disk_mb=8)
COUNTS_FORKS = """
import os, time
num_forks = 0
try:
    while True:
        if os.fork() == 0: time.sleep(9)
        num_forks += 1
except OSError:
    print(num_forks)
"""
LEAVES_CHILDREN = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range(30):
    if os.fork() == 0:
        end = time.process_time() + 0.01
        while time.process_time() < end: pass
        os._exit(0)
    time.sleep(0.012)
time.sleep(0.1)
"""


def v2_files(root: Path, path: str = "pod/box") -> Path:
    """A cgroup2 mount as the kernel shows it, with our own group in it."""
    base = root / path
    base.mkdir(parents=True)
    for folder in (root, base):
        (folder / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids\n")
        (folder / "cgroup.subtree_control").write_text("cpu memory pids\n")
    return base


def test_v2_limits_counts_and_kills_through_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "job-1"
    folder.mkdir()
    (folder / "memory.swap.max").write_text("max")
    (folder / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\nsystem_usec 2\n")
    (folder / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\n")
    (folder / "memory.current").write_text("4096\n")
    group = Group("v2", dict.fromkeys(("memory", "pids", "cpuacct"), folder))
    group.limit(LIMITS)
    group.adopt(4711)
    assert (folder / "memory.max").read_text() == str(64 * 2**20)
    assert (folder / "memory.swap.max").read_text() == "0"
    assert (folder / "pids.max").read_text() == "6"
    assert (folder / "cgroup.procs").read_text() == "4711"
    used = group.usage()
    assert (used.cpu_s, used.memory_peak_bytes, used.num_oom_kills) == (1.5, 4096, 3)
    (folder / "memory.peak").write_text("8192\n")
    assert group.usage().memory_peak_bytes == 8192
    group.kill()
    assert (folder / "cgroup.kill").read_text() == "1"


def test_v2_without_its_controllers_is_not_used(tmp_path: Path) -> None:
    base = v2_files(tmp_path / "fs")
    for folder in (base, tmp_path / "fs"):
        (folder / "cgroup.controllers").write_text("cpuset io\n")
    own = tmp_path / "own"
    own.write_text("0::/pod/box\n")
    assert open_groups(tmp_path / "fs", own) is None
    assert not list(base.glob(f"{PREFIX}*"))


def test_no_groups_where_nothing_is_mounted(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/\n")
    assert open_groups(tmp_path, own) is None


def test_own_groups_are_read_from_both_versions() -> None:
    text = "4:memory:/a/b\n2:cpu,cpuacct:/c\n1:name=systemd:/\n0::/d\n"
    assert own_groups(text) == {"memory": "a/b", "cpu": "c", "cpuacct": "c", "name=systemd": "", "": "d"}


@pytest.fixture(scope="module")
def grouped() -> Iterator[JailRunner]:
    """A runner with this machine's groups."""
    groups = open_groups()
    if groups is None:
        pytest.skip("this process may not make control groups")
    made = JailRunner(open_jail(), groups=groups)
    yield made
    made.close()


def test_the_kernel_ends_a_job_that_takes_too_much_memory(grouped: JailRunner) -> None:
    source = "import os\nfor _ in range(2): os.fork()\nx = b'1' * (30 << 20)\nimport time; time.sleep(4)"
    ended = grouped.run(Job(kind=JobKind.PROGRAM, source=source.encode(), limits=LIMITS))
    assert ended.broke is Class.MEMORY_LIMIT
    assert ended.usage.memory_peak_bytes <= 64 * 2**20


def test_children_that_nobody_waits_for_are_counted(grouped: JailRunner) -> None:
    many = LIMITS.model_copy(update={"pids": 40})
    ended = grouped.run(Job(kind=JobKind.PROGRAM, source=LEAVES_CHILDREN.encode(), limits=many))
    assert ended.exit_code == 0
    assert ended.usage.cpu_s > 0.25


def test_forks_are_refused_at_the_limit(grouped: JailRunner) -> None:
    ended = grouped.run(Job(kind=JobKind.PROGRAM, source=COUNTS_FORKS.encode(), limits=LIMITS))
    assert ended.stdout == b"5\n"


def test_a_group_is_killed_and_removed_whole(grouped: JailRunner) -> None:
    groups = open_groups()
    assert groups is not None
    assert groups.version in grouped.version
    group = groups.make()
    sleeper = subprocess.Popen(["sleep", "60"])
    group.adopt(sleeper.pid)
    group.kill()
    assert sleeper.wait(10) == -signal.SIGKILL
    group.remove()
    assert not any(folder.exists() for folder in group.places())
    groups.close()
    assert not list(Path("/sys/fs/cgroup").glob(f"*/**/{PREFIX}{os.getpid()}-*/{group.places()[0].name}"))
