"""What an API server says of our workloads, read into `Workload` and `Pod`. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeAlias

from forklight_core.cluster.port import COMPONENT, DELETION_COST, VERSION, Pod, Workload

Json: TypeAlias = dict[str, Any]

BAD_WAITS = (
    "CrashLoopBackOff",
    "ImagePullBackOff",
    "ErrImagePull",
    "CreateContainerConfigError",
    "RunContainerError",
)


def read_workload(kind: str, reply: Json, autoscaler: str = "") -> Workload:
    """A Deployment, StatefulSet or LeaderWorkerSet."""
    metadata, spec, status = reply["metadata"], reply.get("spec", {}), reply.get("status", {})
    template = spec.get("template") or spec.get("leaderWorkerTemplate", {}).get("workerTemplate", {})
    labels = metadata.get("labels", {}) | template.get("metadata", {}).get("labels", {})
    selector = spec.get("selector", {}).get("matchLabels", {})
    if kind == "LeaderWorkerSet":
        selector = {"leaderworkerset.sigs.k8s.io/name": metadata["name"]}
    return Workload(
        name=metadata["name"],
        kind=kind,
        wanted=spec.get("replicas", 1),
        ready=status.get("readyReplicas", 0),
        component=labels.get(COMPONENT, ""),
        version=labels.get(VERSION, ""),
        image=_image(template),
        selector=_selector(selector),
        autoscaler=autoscaler,
    )


def read_jobset(reply: Json) -> Workload:
    """A gang: as many pods as its jobs have together; it is not scaled while it runs."""
    metadata, spec, status = reply["metadata"], reply.get("spec", {}), reply.get("status", {})
    jobs = spec.get("replicatedJobs", [])
    specs: dict[str, Json] = {job["name"]: job.get("template", {}).get("spec", {}) for job in jobs}
    widths = {name: each.get("parallelism", 1) for name, each in specs.items()}
    ready = {each["name"]: each.get("ready", 0) for each in status.get("replicatedJobsStatus", [])}
    template: Json = specs[jobs[0]["name"]].get("template", {}) if jobs else {}
    labels = metadata.get("labels", {}) | template.get("metadata", {}).get("labels", {})
    return Workload(
        name=metadata["name"],
        kind="JobSet",
        wanted=sum(job.get("replicas", 1) * widths[job["name"]] for job in jobs),
        ready=sum(ready.get(name, 0) * width for name, width in widths.items()),
        component=labels.get(COMPONENT, ""),
        version=labels.get(VERSION, ""),
        image=_image(template),
        selector=f"jobset.sigs.k8s.io/jobset-name={metadata['name']}",
        scalable=False,
    )


def read_autoscalers(reply: Json) -> dict[tuple[str, str], str]:
    """Who scales what: (kind, name) of the target to the autoscaler, KEDA's object rather than its HPA."""
    found = {}
    for item in reply.get("items", []):
        target = item.get("spec", {}).get("scaleTargetRef", {})
        metadata = item["metadata"]
        scaled_object = metadata.get("labels", {}).get("scaledobject.keda.sh/name", "")
        name = (
            f"ScaledObject/{scaled_object}"
            if scaled_object
            else f"HorizontalPodAutoscaler/{metadata['name']}"
        )
        found[(target.get("kind", ""), target.get("name", ""))] = name
    return found


def read_pod(reply: Json) -> Pod:
    """One pod."""
    metadata, status = reply["metadata"], reply.get("status", {})
    containers = status.get("containerStatuses", [])
    conditions = {each["type"]: each for each in status.get("conditions", [])}
    phase = "Terminating" if metadata.get("deletionTimestamp") else status.get("phase", "Unknown")
    return Pod(
        name=metadata["name"],
        phase=phase,
        node=reply.get("spec", {}).get("nodeName", "") or "",
        ready=conditions.get("Ready", {}).get("status") == "True",
        restarts=sum(each.get("restartCount", 0) for each in containers),
        started_at=_seconds(status.get("startTime")),
        deletion_cost=_cost(metadata.get("annotations") or {}),
        reason=_reason(containers, conditions, status),
    )


def _cost(annotations: dict[str, str]) -> int:
    """As the cluster reads it: what is no number counts as 0."""
    try:
        return int(annotations.get(DELETION_COST, "0"))
    except ValueError:
        return 0


def _reason(containers: list[Json], conditions: dict[str, Json], status: Json) -> str:
    for each in containers:
        state = each.get("state", {})
        waiting = state.get("waiting", {}).get("reason", "")
        if waiting in BAD_WAITS:
            return str(waiting)
        terminated = state.get("terminated")
        if terminated:
            return f"{terminated.get('reason', 'Error')} (exit code {terminated.get('exitCode', '?')})"
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return f"{scheduled.get('reason', 'Unschedulable')}: {scheduled.get('message', '')}".rstrip(": ")
    return str(status.get("reason", ""))


def _image(template: Json) -> str:
    containers = template.get("spec", {}).get("containers", [])
    return str(containers[0].get("image", "")) if containers else ""


def _selector(labels: dict[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))


def _seconds(stamp: str | None) -> float:
    return datetime.fromisoformat(stamp).timestamp() if stamp else 0.0
