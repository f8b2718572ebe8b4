"""Tier pod: one pod a job in a Kubernetes cluster, made ahead, used once, deleted."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forklight_core.errors import UnavailableError
from forklight_core.runfile.schema import SandboxSection
from forklight_reward.sandbox.runner import Ended, Job, Tier
from forklight_reward.sandbox.tiers.cluster import Cluster, PodChannel, connect_cluster
from forklight_reward.sandbox.tiers.conversation import await_ready, ended_by_memory
from forklight_reward.sandbox.tiers.manifest import pod_of
from forklight_reward.sandbox.tiers.owner import is_left_over
from forklight_reward.sandbox.tiers.pool import WarmPool
from forklight_reward.sandbox.tiers.pooled import run_pooled
from forklight_reward.sandbox.tiers.shape import Shape, shape_of
from forklight_reward.sandbox.tiers.wire import Place, encode_request

if TYPE_CHECKING:
    from kubernetes.client import V1ContainerState, V1Pod

logger = logging.getLogger(__name__)

START_LIMIT_S = 180.0
LOOK_S = 0.1
ANSWER_LIMIT_S = 30.0
MAX_IDLE_S = 600.0
END_LIMIT_S = 5.0
# Reasons of a waiting container that no waiting mends.
HOPELESS = frozenset(
    {
        "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull",
        "CreateContainerConfigError", "CreateContainerError", "RunContainerError",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A running pod whose guest has answered."""

    name: str
    channel: PodChannel


class PodRunner:
    """Port Runner over a cluster."""

    def __init__(self, cluster: Cluster, section: SandboxSection) -> None:
        self._cluster = cluster
        self._section = section
        if not cluster.denies_traffic():
            raise UnavailableError(
                f"sandbox: no network policy of namespace {section.namespace} denies all traffic, so "
                "programs could reach the cluster; apply sandbox/tiers/namespace.yaml of the reward service"
            )
        self._remove_left_overs()
        self._pool: WarmPool[Shape, Held] = WarmPool(
            self.make, self.end, size=section.warm, max_idle_s=MAX_IDLE_S
        )

    @property
    def version(self) -> str:
        """What programs run on, for verdicts."""
        runtime = self._section.runtime_class or "default"
        return f"sandbox/1 pod runtime_class={runtime} image={self._section.image}"

    @property
    def tier(self) -> Tier:
        """A pod."""
        return Tier.POD

    def run(self, job: Job) -> Ended:
        """One pod, which is deleted afterwards."""
        request = encode_request(job, Place())
        return run_pooled(self, self._pool, shape_of(job.limits), job, request)

    def close(self) -> None:
        """Delete the pods that wait."""
        self._pool.close()
        self._cluster.close()

    def make(self, shape: Shape) -> Held:
        """Made, running, attached to and answering. Nothing is left when any of it fails."""
        name = self._cluster.create(pod_of(self._section, shape))
        channel: PodChannel | None = None
        try:
            self._await_running(name)
            channel = self._cluster.attach(name)
            await_ready(channel, ANSWER_LIMIT_S)
        except UnavailableError as error:
            complaint = b""
            if channel is not None:
                complaint = bytes(channel.complaint)
                channel.close()
            self._cluster.delete(name)
            raise UnavailableError(f"{error} {complaint.decode(errors='replace')}".strip()) from error
        return Held(name=name, channel=channel)

    def _await_running(self, name: str) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            pod = self._cluster.read(name)
            if pod.status.phase == "Running":
                return
            why = trouble_of(pod)
            if pod.status.phase in ("Failed", "Succeeded") or why in HOPELESS:
                raise UnavailableError(f"sandbox: the pod {name} does not start: {why or pod.status.phase}")
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"sandbox: the pod {name} does not run after {START_LIMIT_S:.0f} s: {why or 'no reason'}"
                )
            time.sleep(LOOK_S)

    def end(self, held: Held) -> None:
        """Close the stream and remove what was behind it."""
        try:
            held.channel.close()
        finally:
            self._cluster.delete(held.name)

    def explain(self, held: Held, job: Job) -> Ended:
        """A guest went without a last word: for want of memory the program did it, else the machinery."""
        deadline = time.monotonic() + END_LIMIT_S
        why = ""
        while time.monotonic() < deadline:
            state = state_of(self._cluster.read(held.name))
            if state is not None and state.terminated is not None:
                if state.terminated.reason == "OOMKilled":
                    return ended_by_memory(job)
                why = f"{state.terminated.reason}, exit code {state.terminated.exit_code}"
                break
            time.sleep(LOOK_S)
        complaint = bytes(held.channel.complaint).decode(errors="replace").strip()
        how = f"{why or 'no reason given'} {complaint}".strip()
        raise UnavailableError(f"sandbox: the pod {held.name} went away in the middle of a job: {how}")

    def _remove_left_overs(self) -> None:
        left = [name for name, owner in self._cluster.owners().items() if is_left_over(owner)]
        for name in left:
            self._cluster.delete(name)
        if left:
            logger.warning("deleted pods that a dead sandbox left behind", extra={"num_pods": len(left)})


def state_of(pod: V1Pod) -> V1ContainerState | None:
    """What its only container does."""
    statuses = pod.status.container_statuses or []
    return statuses[0].state if statuses else None


def trouble_of(pod: V1Pod) -> str:
    """Why it does not run yet, in the cluster's word."""
    state = state_of(pod)
    if state is not None and state.waiting is not None and state.waiting.reason:
        return str(state.waiting.reason)
    reasons = [item.reason for item in pod.status.conditions or [] if item.status == "False" and item.reason]
    return str(reasons[0]) if reasons else ""


def open_pod_runner(section: SandboxSection) -> PodRunner:
    """A runner over the cluster that is in reach. UnavailableError says why there is none."""
    return PodRunner(Cluster(connect_cluster(), section.namespace), section)
