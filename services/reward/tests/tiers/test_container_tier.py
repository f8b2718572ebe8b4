"""Tier container on a real engine.

DOCKER_HOST names it, FORKLIGHT_TEST_SANDBOX_IMAGE an image with python3 and c++ that it has, and
FORKLIGHT_TEST_SANDBOX_RUNTIME may choose runc or runsc.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from forklight_core.errors import UnavailableError
from forklight_reward.sandbox.result import Class
from forklight_reward.sandbox.runner import Job, JobKind
from forklight_reward.sandbox.spec import Limits
from forklight_reward.sandbox.tiers import engine
from forklight_reward.sandbox.tiers.choice import prove
from forklight_reward.sandbox.tiers.container import ContainerRunner, open_container_runner
from forklight_reward.sandbox.tiers.owner import OWNER_LABEL
from forklight_reward.sandbox.tiers.shape import Shape
from services.reward.tests.tiers.jobs import (
    CPP,
    DAEMON,
    HOSTILE,
    LIMITS,
    program,
    run_command,
    run_honest,
    run_own_file,
)

IMAGE = os.environ.get("FORKLIGHT_TEST_SANDBOX_IMAGE", "")
RUNTIME = os.environ.get("FORKLIGHT_TEST_SANDBOX_RUNTIME", "auto")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not IMAGE, reason="FORKLIGHT_TEST_SANDBOX_IMAGE names no image of a container engine"),
]


@pytest.fixture(scope="module")
def containers() -> Iterator[ContainerRunner]:
    made = open_container_runner(image=IMAGE, runtime=RUNTIME, warm=1)
    yield made
    made.close()
    assert ours() == []


def ours() -> list[str]:
    """Containers that this process has left."""
    client = engine.connect_engine()
    try:
        found = client.containers(all=True, filters={"label": OWNER_LABEL})
        return [item["Id"] for item in found if f".{os.getpid()}." in item["Labels"][OWNER_LABEL]]
    finally:
        client.close()


def test_the_self_test_passes(containers: ContainerRunner) -> None:
    prove(containers, compiler="c++")


def test_jobs_of_every_kind_run(containers: ContainerRunner) -> None:
    run_honest(containers)
    assert run_command(containers).broke is None
    run_own_file(containers)


def test_a_compiled_program_goes_from_one_container_to_the_next(containers: ContainerRunner) -> None:
    limits = Limits(cpu_s=20, wall_s=30, memory_mb=512, pids=16)
    compiled = containers.run(
        Job(
            kind=JobKind.COMMAND,
            command=("c++", "a.cpp", "-o", "a"),
            files={"a.cpp": CPP},
            collect=("a",),
            limits=limits,
        )
    )
    assert compiled.exit_code == 0, compiled.stderr
    run = Job(kind=JobKind.COMMAND, command=("./a",), files=compiled.files, stdin=b"21", limits=limits)
    assert containers.run(run).stdout == b"42\n"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_is_stopped(containers: ContainerRunner, name: str) -> None:
    source, classes = HOSTILE[name]
    began = time.monotonic()
    assert containers.run(program(source)).broke in classes
    assert time.monotonic() - began < 20


def test_a_daemon_holds_nothing_open(containers: ContainerRunner) -> None:
    assert containers.run(program(DAEMON)).stdout == b"gone\n"


def test_nothing_of_one_job_is_seen_by_the_next(containers: ContainerRunner) -> None:
    leave = program("for folder in ('/box', '/tmp', '/dev/shm'): open(folder + '/left', 'w').write('x')")
    assert containers.run(leave).exit_code == 0
    look = program("import os\nprint([f for f in ('/box', '/tmp', '/dev/shm') if 'left' in os.listdir(f)])")
    assert containers.run(look).stdout == b"[]\n"


def test_it_has_no_capability_and_no_way_to_one(containers: ContainerRunner) -> None:
    status = containers.run(program("print(open('/proc/self/status').read(), open('/proc/mounts').read())"))
    lines = status.stdout.decode().splitlines()
    assert {line.split()[1].strip("0") for line in lines if line.startswith("Cap")} == {""}
    assert "NoNewPrivs:\t1" in lines or containers.version.find("runsc") > 0
    root = next(line.split() for line in lines if " / " in line)
    assert root[3].split(",")[0] == "ro"


def test_folders_of_a_job_are_a_layer_and_read_only(containers: ContainerRunner, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "x.py").write_text("SEEN = 5\n")
    source = (
        "import sys\nsys.path.insert(0, '/opt/given')\nimport x\nprint(x.SEEN)\nopen('/opt/given/x.py', 'w')"
    )
    job = Job(
        kind=JobKind.PROGRAM,
        source=source.encode(),
        mounts={"/opt/given": str(tmp_path / "given")},
        limits=LIMITS,
    )
    ended = containers.run(job)
    assert ended.stdout == b"5\n", ended.stderr
    assert b"Read-only file system" in ended.stderr or b"Permission denied" in ended.stderr


def test_what_the_engine_does_is_no_verdict(containers: ContainerRunner) -> None:
    client = engine.connect_engine()
    try:
        container_id = engine.create_container(client, IMAGE, Shape(memory_mb=64, disk_mb=8, pids=8), "runc")
        assert container_id in ours()
        engine.remove_container(client, container_id)
        engine.remove_container(client, container_id)
        with pytest.raises(UnavailableError, match=r"no image 'no-such-image'"):
            engine.image_id(client, "no-such-image")
        with pytest.raises(UnavailableError, match="no runtime kata"):
            engine.choose_runtime(client, "kata")
    finally:
        client.close()


def test_a_container_that_is_killed_under_a_job_is_no_verdict(containers: ContainerRunner) -> None:
    import threading

    def cut_down() -> None:
        client = engine.connect_engine()
        for container_id in ours():
            client.kill(container_id)
        client.close()

    killer = threading.Timer(1.5, cut_down)
    killer.start()
    with pytest.raises(UnavailableError):
        containers.run(program("import time\nfor _ in range(60): time.sleep(1)", limits=Limits(wall_s=60)))
    killer.join()
    assert containers.run(program("print('again')")).broke is None


def test_memory_that_only_the_cgroup_sees_is_the_programs_doing(containers: ContainerRunner) -> None:
    hog = (
        "import mmap\nheld = []\nwhile True:\n    held.append(mmap.mmap(-1, 1 << 22))\n"
        "    held[-1].write(b'x' * (1 << 22))"
    )
    assert containers.run(program(hog, limits=Limits(memory_mb=64, disk_mb=8))).broke is Class.MEMORY_LIMIT
