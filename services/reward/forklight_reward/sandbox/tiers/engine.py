"""Speaks to a container engine through the docker SDK: creates, attaches, counts, removes."""

from __future__ import annotations

import itertools
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import JsonValue

from forklight_core.errors import UnavailableError
from forklight_reward.sandbox.limits import EXTRA_PIDS, MIB
from forklight_reward.sandbox.tiers.owner import OWNER_LABEL, label_value
from forklight_reward.sandbox.tiers.shape import (
    FIRST_USER,
    GUEST_MEMORY_MB,
    KERNEL_MEMORY_MB,
    NUM_USERS,
    Shape,
)
from forklight_reward.sandbox.tiers.wire import ENVIRONMENT, guest_command

if TYPE_CHECKING:
    from docker import APIClient

INSTALL = "install forklight-reward[containers]"
CALL_LIMIT_S = 60
CHUNK_BYTES = 65536
KERNEL_PIDS = 1024  # its threads count too, and too few of them crash it
MAX_FILES = 20_000
SHARED_MEMORY = "16m"
_numbers = itertools.count()


@contextmanager
def engine_errors(what: str) -> Iterator[None]:
    """Whatever the engine or the way to it does wrong is a failure of the machinery."""
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    try:
        yield
    except (DockerException, RequestException, OSError, ValueError) as error:
        said = str(error).strip()[:400] or type(error).__name__
        raise UnavailableError(f"sandbox: the container engine failed to {what}: {said}") from error


def connect_engine() -> APIClient:
    """The engine that DOCKER_HOST names, else the local one. UnavailableError says what to do."""
    try:
        import docker
    except ImportError as error:
        raise UnavailableError(f"sandbox: tier container needs the docker package: {INSTALL}") from error
    with engine_errors("answer (is it running, and does DOCKER_HOST name it?)"):
        client = docker.from_env(timeout=CALL_LIMIT_S).api
        client.ping()
    return client


class AttachedChannel:
    """Channel to the guest of one container over an attached stream."""

    def __init__(self, client: APIClient, container_id: str) -> None:
        self._client = client
        self._id = container_id
        with engine_errors("attach to a container"):
            stream = client.attach_socket(
                container_id, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            )
        self._stream = stream
        self._socket: socket.socket = getattr(stream, "_sock", stream)
        self._socket.settimeout(CALL_LIMIT_S)
        self._poller = select.poll()
        self._poller.register(self._socket, select.POLLIN)
        self._raw = bytearray()
        self._left = 0
        self._is_output = True
        self.complaint = bytearray()
        self.base_cpu_s = 0.0

    def send(self, data: bytes) -> None:
        """Everything."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise UnavailableError(f"sandbox: the container takes no job: {error}") from error

    def receive(self, timeout_s: float) -> bytes | None:
        """The guest's output; what its interpreter complains of is kept aside."""
        if not self._poller.poll(timeout_s * 1000):
            return None
        try:
            data = self._socket.recv(CHUNK_BYTES)
        except ConnectionResetError:
            return b""
        except OSError as error:
            raise UnavailableError(f"sandbox: the stream of a container broke: {error}") from error
        if not data:
            return b""
        return self._demultiplex(data) or None

    def _demultiplex(self, data: bytes) -> bytes:
        """Take the engine's headers out: which stream, and how many bytes of it follow."""
        self._raw += data
        found = bytearray()
        while self._raw:
            if self._left == 0:
                if len(self._raw) < 8:
                    break
                kind, self._left = struct.unpack_from(">BxxxL", self._raw)
                self._is_output = kind == 1
                del self._raw[:8]
                continue
            piece = self._raw[: self._left]
            del self._raw[: len(piece)]
            self._left -= len(piece)
            if self._is_output:
                found += piece
            else:
                self.complaint = (self.complaint + piece)[-500:]
        return bytes(found)

    def cpu_s(self) -> float:
        """Processor time of the container since it was ready."""
        return self.total_cpu_s() - self.base_cpu_s

    def total_cpu_s(self) -> float:
        """Processor time of the container's cgroup; 0 when the engine does not say (it has just ended)."""
        with engine_errors("count a container's processor time"):
            stats = self._client.stats(self._id, stream=False, one_shot=True)
        return float(stats.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage", 0)) / 1e9

    def close(self) -> None:
        """End the stream, with it the guest's input."""
        self._socket.close()
        self._stream.close()


def container_settings(client: APIClient, shape: Shape, runtime: str, user: int) -> dict[str, JsonValue]:
    """The walls: no network, read-only root, no capability, no new privileges, every resource bounded."""
    is_kernel = runtime == "runsc"
    memory_mb = shape.memory_mb + 2 * shape.disk_mb + GUEST_MEMORY_MB + (KERNEL_MEMORY_MB if is_kernel else 0)
    # Owned by the user: engines put the mode of a folder that the image has over ours.
    disk = (
        f"rw,nosuid,nodev,size={shape.disk_mb}m,nr_inodes={MAX_FILES + 100},mode=0700,uid={user},gid={user}"
    )
    settings: dict[str, JsonValue] = client.create_host_config(
        runtime=runtime,
        network_mode="none",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        ipc_mode="private",
        pids_limit=shape.pids + 4 * EXTRA_PIDS + (KERNEL_PIDS if is_kernel else 0),
        mem_limit=memory_mb * MIB,
        memswap_limit=memory_mb * MIB,
        nano_cpus=10**9,
        tmpfs={"/box": f"{disk},exec", "/tmp": f"{disk},noexec"},
        shm_size=SHARED_MEMORY,
        log_config={"Type": "none", "Config": {}},
        privileged=False,
        auto_remove=False,
    )
    return settings


def create_container(client: APIClient, image: str, shape: Shape, runtime: str) -> str:
    """A container that holds a guest, not yet started. Its id."""
    user = FIRST_USER + next(_numbers) % NUM_USERS
    with engine_errors(f"make a container of image {image}"):
        made = client.create_container(
            image,
            entrypoint=guest_command("python3"),
            command=[],
            user=f"{user}:{user}",
            working_dir="/box",
            hostname="box",
            environment=ENVIRONMENT,
            labels={OWNER_LABEL: label_value()},
            stdin_open=True,
            tty=False,
            network_disabled=True,
            healthcheck={"test": ["NONE"]},
            host_config=container_settings(client, shape, runtime, user),
        )
    return str(made["Id"])


def remove_container(client: APIClient, container_id: str) -> None:
    """Kill and remove; one that is gone already is fine."""
    from docker.errors import NotFound

    with engine_errors("remove a container"):
        try:
            client.remove_container(container_id, force=True, v=True)
        except NotFound:
            return


def image_id(client: APIClient, name: str) -> str:
    """The digest of an image that the engine has; nothing is pulled behind the operator's back."""
    from docker.errors import ImageNotFound

    with engine_errors("look for an image"):
        try:
            return str(client.inspect_image(name)["Id"])
        except ImageNotFound as error:
            raise UnavailableError(
                f"sandbox: the engine has no image {name!r}; pull or build it (docker pull {name}), "
                "or set reward.sandbox.image"
            ) from error


def choose_runtime(client: APIClient, wanted: str) -> str:
    """runsc where the engine has it and nobody said otherwise."""
    with engine_errors("say what it can"):
        known = set(client.info().get("Runtimes") or {})
    if wanted == "auto":
        return "runsc" if "runsc" in known else "runc"
    if wanted not in known:
        raise UnavailableError(
            f"sandbox: the engine has no runtime {wanted} (it has {', '.join(sorted(known)) or 'none'}); "
            "install it and name it in the engine's daemon.json, or set reward.sandbox.runtime"
        )
    return wanted
