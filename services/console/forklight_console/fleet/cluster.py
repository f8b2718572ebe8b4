"""What the cluster says of our workloads, for the fleet page. Absent outside a cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from forklight_core.cluster import Cluster, Pod, Workload, open_cluster
from forklight_core.errors import ForklightError

MOST_PODS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadRow:
    """A workload with those of its pods that want a look."""

    workload: Workload
    level: str
    pods: Sequence[PodLine]
    num_running: int
    num_restarts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PodLine:
    """A pod of a workload."""

    pod: Pod
    level: str
    age: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPanel:
    """The workloads of a namespace; `problem` says why there are none."""

    namespace: str
    rows: Sequence[WorkloadRow] = ()
    problem: str = ""


def reach_cluster(namespace: str) -> tuple[Cluster | None, str]:
    """The cluster of a namespace, or why there is none: one panel less, no reason for the console to end."""
    if not namespace:
        return None, ""
    try:
        return open_cluster(namespace=namespace), ""
    except ForklightError as error:
        return None, str(error)


async def look_at_cluster(cluster: Cluster | None, problem: str) -> ClusterPanel | None:
    """None where no cluster is set; an error of the API server is shown, not raised."""
    if cluster is None:
        return ClusterPanel(namespace="", problem=problem) if problem else None
    try:
        rows = await asyncio.to_thread(_rows, cluster, time.time())
    except ForklightError as error:
        return ClusterPanel(namespace=cluster.namespace, problem=str(error))
    return ClusterPanel(namespace=cluster.namespace, rows=rows)


def _rows(cluster: Cluster, now: float) -> list[WorkloadRow]:
    rows = []
    for workload in cluster.workloads():
        pods = cluster.pods(workload.selector)[:MOST_PODS] if workload.selector else ()
        rows.append(
            WorkloadRow(
                workload=workload,
                level="good" if workload.ready >= workload.wanted else "warn" if workload.ready else "bad",
                pods=[_line(pod, now) for pod in sorted(pods, key=lambda each: (each.ready, each.name))],
                num_running=sum(pod.ready for pod in pods),
                num_restarts=sum(pod.restarts for pod in pods),
            )
        )
    return rows


def _line(pod: Pod, now: float) -> PodLine:
    level = "good" if pod.ready else "bad" if pod.reason or pod.phase == "Failed" else "warn"
    return PodLine(pod=pod, level=level, age=_duration(now - pod.started_at) if pod.started_at else "-")


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
