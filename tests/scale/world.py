"""What a simulation runs on: the embedded Redis of `forklight up`, a buffer process, and hands that train and
judge. The run file is written anew, and the buffer started again, when a stage needs more groups in flight.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forklight.v1 import buffer_pb2, buffer_pb2_grpc
from forklight_core.child import die_with_parent
from forklight_core.errors import DeadlineError, UnavailableError
from forklight_core.ports import free_ports
from forklight_core.redis_server import EmbeddedRedis, start_embedded
from forklight_core.rpc import open_sync_channel
from tests.scale.children import Child, start_child
from tests.scale.hands import HandsPlan
from tests.scale.host import HostPlan

RUN_ID = "scale"
REPOSITORY = Path(__file__).resolve().parents[2]
START_S = 60.0
STOP_S = 60.0
GROUPS_A_POD = 2.3
"""What a pod holds when there is enough: one that it generates, one beyond, at times parts of a third."""

RUN_FILE = """
[run]
name = "scale"
[prompts]
train = "{folder}/prompts.jsonl"
[sampling]
group_size = {group_size}
max_new_tokens = {max_new_tokens}
[trainer]
steps = 10000000
groups_per_step = {groups_per_step}
updates_per_version = {steps_per_version}
[buffer]
dynamic_sampling = false
max_staleness = {max_staleness}
max_open_groups = {max_open_groups}
max_open_tokens = 1000000000000
max_open_bytes = "100000GiB"
lease_s = {lease_s}
max_deliveries = 50
watchdog_s = 3600
[rollout]
max_batch = {num_sequences}
drain_s = {drain_s}
segment_tokens = {segment_tokens}
[evaluation]
every_versions = 0
[recipe]
overlong_penalty = false
allow_deviation = true
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How pods and samples are. Time runs as it does; samples are short."""

    group_size: int = 2
    num_sequences: int = 2
    tokens_per_s: float = 10.0
    mean_tokens: float = 400.0
    segment_tokens: int = 160
    lease_s: float = 15.0
    drain_s: float = 6.0
    weights_poll_s: float = 2.0
    groups_per_step: int = 16
    steps_per_version: int = 8
    pods_per_host: int = 40
    fewest_hosts: int = 3
    """So that killing one never takes everything."""

    @property
    def samples_per_s(self) -> float:
        """Of one pod that always has work."""
        return self.num_sequences * self.tokens_per_s / self.mean_tokens


@dataclass(slots=True)
class World:
    """Everything but the pods."""

    folder: Path
    shape: Shape
    server: EmbeddedRedis
    address: str
    buffer: subprocess.Popen[bytes]
    hands: Child
    num_starts: int = 1

    @property
    def run_file(self) -> Path:
        return self.folder / "run.toml"

    @property
    def seen_by_buffer(self) -> Path:
        """Where the buffer process writes what it saw of itself."""
        return self.folder / "buffer.jsonl"

    def host_plan(self) -> HostPlan:
        """What pods are told."""
        return HostPlan(
            run_file=str(self.run_file),
            run_folder=str(self.folder),
            run_id=RUN_ID,
            redis_url=self.server.url,
            blobs_url=f"file://{self.folder}/blobs",
            buffer_address=self.address,
            num_sequences=self.shape.num_sequences,
            tokens_per_s=self.shape.tokens_per_s,
            mean_tokens=self.shape.mean_tokens,
            weights_poll_s=self.shape.weights_poll_s,
        )

    def allow(self, num_pods: int) -> float:
        """Groups for so many pods: a new run file, and the buffer started again. Returns how long it was
        away."""
        write_run_file(self.folder, self.shape, num_pods)
        started = time.monotonic()
        self.stop_buffer()
        self.buffer = start_buffer(self.folder, self.server, self.address)
        wait_serving(self.address, self.buffer)
        self.num_starts += 1
        return time.monotonic() - started

    def stop_buffer(self) -> None:
        """As a deployment does it: SIGTERM, and wait."""
        self.buffer.terminate()
        try:
            self.buffer.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.buffer.kill()
            raise AssertionError(f"the buffer did not end within {STOP_S:g} s of SIGTERM") from None

    def check(self) -> None:
        """AssertionError when buffer or hands have ended by themselves."""
        for name, process in (("buffer_process", self.buffer), ("hands", self.hands.process)):
            if process.poll() is not None:
                log = self.folder / f"{'buffer' if process is self.buffer else name}.log"
                raise AssertionError(
                    f"{name} ended with code {process.returncode}: {log.read_text(errors='replace')[-2000:]}"
                )

    def status(self) -> buffer_pb2.GetStatusReply:
        """What the buffer says."""
        return ask_status(self.address)


def write_run_file(folder: Path, shape: Shape, num_pods: int) -> None:
    """Enough groups for these pods, and a staleness bound that is not what decides."""
    groups = int(GROUPS_A_POD * num_pods * max(1, shape.num_sequences // shape.group_size))
    per_version = shape.groups_per_step * shape.steps_per_version
    values = asdict(shape) | {
        "folder": folder,
        "max_open_groups": groups + 2,
        "max_staleness": 2 + 2 * groups // per_version,
        "max_new_tokens": int(8 * shape.mean_tokens),
    }
    (folder / "run.toml").write_text(RUN_FILE.format(**values))


@contextmanager
def open_world(folder: Path, shape: Shape, num_pods: int) -> Iterator[World]:
    """Start, wait until the buffer serves, stop."""
    rows = [
        {"id": f"p{number}", "prompt": f"{number}+1=", "kind": "math", "gold": str(number + 1)}
        for number in range(4096)
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_run_file(folder, shape, num_pods)
    with start_embedded(folder / "redis") as server:
        address = f"127.0.0.1:{free_ports(1)[0]}"
        buffer = start_buffer(folder, server, address)
        hands = None
        try:
            wait_serving(address, buffer)
            hands = start_child(
                "tests.scale.hands", asdict(_hands_plan(folder, shape, server, address)), folder
            )
            world = World(folder, shape, server, address, buffer, hands)
            try:
                yield world
            finally:
                buffer = world.buffer
        finally:
            if hands is not None:
                hands.kill()
            if buffer.poll() is None:
                buffer.kill()
            buffer.wait()


def _hands_plan(folder: Path, shape: Shape, server: EmbeddedRedis, address: str) -> HandsPlan:
    return HandsPlan(
        run_id=RUN_ID,
        folder=str(folder),
        redis_url=server.url,
        buffer_address=address,
        lease_s=shape.lease_s,
        steps_per_version=shape.steps_per_version,
    )


def start_buffer(folder: Path, server: EmbeddedRedis, address: str) -> subprocess.Popen[bytes]:
    """The real one, watched."""
    environment = os.environ | {
        "FORKLIGHT_RUN_FILE": str(folder / "run.toml"),
        "FORKLIGHT_RUN_FOLDER": str(folder),
        "FORKLIGHT_RUN_ID": RUN_ID,
        "FORKLIGHT_REDIS_URL": server.url,
        "FORKLIGHT_BLOBS_URL": f"file://{folder}/blobs",
        "FORKLIGHT_LISTEN": address,
        "FORKLIGHT_POD": "buffer-0",
    }
    command = [sys.executable, "-m", "tests.scale.buffer_process", str(folder / "buffer.jsonl")]
    with (folder / "buffer.log").open("ab") as log:
        return subprocess.Popen(
            die_with_parent(command), cwd=REPOSITORY, env=environment, stdout=log, stderr=log
        )


def wait_serving(address: str, buffer: subprocess.Popen[bytes]) -> None:
    """Until the buffer answers."""

    def answers() -> bool:
        if buffer.poll() is not None:
            raise AssertionError(f"the buffer ended with code {buffer.returncode}: see buffer.log")
        try:
            ask_status(address)
        except (UnavailableError, DeadlineError):
            return False
        return True

    wait_until(answers, START_S, "the buffer to serve")


def ask_status(address: str) -> buffer_pb2.GetStatusReply:
    """GetStatus on a connection of its own."""
    with open_sync_channel(address) as channel:
        request = buffer_pb2.GetStatusRequest(run_id=RUN_ID)
        reply: Any = buffer_pb2_grpc.BufferStub(channel).GetStatus(request, timeout=10)
        return reply


def wait_until(condition: Callable[[], bool], deadline_s: float, what: str) -> float:
    """Poll; returns how long it took. AssertionError when it takes too long."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > deadline_s:
            raise AssertionError(f"waited {deadline_s:g} s for {what}")
        time.sleep(0.1)
    return time.monotonic() - started
