"""Tier container: one hardened container a job, made ahead, used once, removed."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forklight_core.errors import UnavailableError
from forklight_reward.sandbox.runner import Ended, Job, Tier
from forklight_reward.sandbox.tiers import engine
from forklight_reward.sandbox.tiers.content import image_with
from forklight_reward.sandbox.tiers.conversation import await_ready, ended_by_memory
from forklight_reward.sandbox.tiers.engine import AttachedChannel, engine_errors
from forklight_reward.sandbox.tiers.owner import OWNER_LABEL, is_left_over
from forklight_reward.sandbox.tiers.pool import WarmPool
from forklight_reward.sandbox.tiers.pooled import run_pooled
from forklight_reward.sandbox.tiers.shape import Shape, shape_of
from forklight_reward.sandbox.tiers.wire import Place, encode_request

if TYPE_CHECKING:
    from docker import APIClient

logger = logging.getLogger(__name__)

READY_LIMIT_S = 60.0
MAX_IDLE_S = 600.0
END_LIMIT_S = 5.0
PLACE = Place()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a warm container is kept for."""

    image: str
    shape: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A started container whose guest is ready."""

    id: str
    channel: AttachedChannel


class ContainerRunner:
    """Port Runner over a container engine."""

    def __init__(self, client: APIClient, *, image: str, runtime: str, warm: int) -> None:
        self._client = client
        self._image = engine.image_id(client, image)
        self._runtime = engine.choose_runtime(client, runtime)
        remove_left_overs(client)
        self._pool: WarmPool[Kind, Held] = WarmPool(self.make, self.end, size=warm, max_idle_s=MAX_IDLE_S)

    @property
    def version(self) -> str:
        """What programs run on, for verdicts."""
        return f"sandbox/1 container runtime={self._runtime} image={self._image.removeprefix('sha256:')[:12]}"

    @property
    def tier(self) -> Tier:
        """A container, under gVisor's kernel where the engine has it."""
        return Tier.CONTAINER

    def run(self, job: Job) -> Ended:
        """One container, which is gone afterwards."""
        request = encode_request(job, PLACE)
        image = image_with(self._client, self._image, job.mounts)
        return run_pooled(self, self._pool, Kind(image=image, shape=shape_of(job.limits)), job, request)

    def close(self) -> None:
        """Remove the containers that wait."""
        self._pool.close()
        self._client.close()

    def make(self, kind: Kind) -> Held:
        """Created, attached to, started and ready. Nothing is left when any of it fails."""
        container_id = engine.create_container(self._client, kind.image, kind.shape, self._runtime)
        channel: AttachedChannel | None = None
        try:
            channel = AttachedChannel(self._client, container_id)
            with engine_errors("start a container"):
                self._client.start(container_id)
            await_ready(channel, READY_LIMIT_S)
            channel.base_cpu_s = channel.total_cpu_s()
        except UnavailableError as error:
            complaint = b"" if channel is None else bytes(channel.complaint)
            if channel is not None:
                channel.close()
            said = f"{error}; {self._state_of(container_id)} {complaint.decode(errors='replace').strip()}"
            engine.remove_container(self._client, container_id)
            raise UnavailableError(said.strip()) from error
        return Held(id=container_id, channel=channel)

    def end(self, held: Held) -> None:
        """Close the stream and remove what was behind it."""
        held.channel.close()
        engine.remove_container(self._client, held.id)

    def _state_of(self, container_id: str) -> str:
        """What the engine says became of a container."""
        with engine_errors("look at a container"):
            state = self._client.inspect_container(container_id)["State"]
        return (
            f"container {state.get('Status')}, exit code {state.get('ExitCode')} {state.get('Error')}".strip()
        )

    def explain(self, held: Held, job: Job) -> Ended:
        """A guest went without a last word: for want of memory the program did it, else the machinery."""
        deadline = time.monotonic() + END_LIMIT_S
        while True:
            with engine_errors("look at a container"):
                state = self._client.inspect_container(held.id)["State"]
            if state.get("OOMKilled"):
                return ended_by_memory(job)
            if not state.get("Running") or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        complaint = bytes(held.channel.complaint).decode(errors="replace").strip()
        how = f"{self._state_of(held.id)} {complaint}".strip()
        raise UnavailableError(f"sandbox: the container ended in the middle of a job: {how}")


def remove_left_overs(client: APIClient) -> int:
    """Remove what services that are gone have left on this engine. How many there were."""
    with engine_errors("list containers"):
        found = client.containers(all=True, filters={"label": OWNER_LABEL})
    left = [item["Id"] for item in found if is_left_over(item["Labels"].get(OWNER_LABEL, ""))]
    for container_id in left:
        engine.remove_container(client, container_id)
    if left:
        logger.warning(
            "removed containers that a dead sandbox left behind", extra={"num_containers": len(left)}
        )
    return len(left)


def open_container_runner(*, image: str, runtime: str, warm: int) -> ContainerRunner:
    """A runner over the engine that DOCKER_HOST names. UnavailableError says why there is none."""
    return ContainerRunner(engine.connect_engine(), image=image, runtime=runtime, warm=warm)
