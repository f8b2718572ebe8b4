"""Our workloads in one namespace of a real cluster, over the REST paths of its API server.

Raises NotFoundError (404), PreconditionError (401, 403: a right is missing), BusyError (409, 429),
DeadlineError and UnavailableError (no answer, 5xx), InvalidInputError (what the cluster refuses to set).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol
from urllib.parse import quote

from forklight_core.cluster.port import (
    DELETION_COST,
    OURS,
    Pod,
    Workload,
    check_replicas,
    find_workload,
)
from forklight_core.cluster.replies import Json, read_autoscalers, read_jobset, read_pod, read_workload
from forklight_core.errors import InvalidInputError, NotFoundError, PreconditionError

PAUSED_AT = "autoscaling.keda.sh/paused-replicas"
PAGE = "500"
APPS = {"Deployment": "apis/apps/v1:deployments", "StatefulSet": "apis/apps/v1:statefulsets"}
OPTIONAL = {
    "LeaderWorkerSet": "apis/leaderworkerset.x-k8s.io/v1:leaderworkersets",
    "JobSet": "apis/jobset.x-k8s.io/v1alpha2:jobsets",
}
AUTOSCALERS = "apis/autoscaling/v2:horizontalpodautoscalers"
SCALED_OBJECTS = "apis/keda.sh/v1alpha1:scaledobjects"
PODS = "api/v1:pods"


class Asking(Protocol):
    """Who speaks to the API server."""

    def get(self, path: str, query: dict[str, str] | None = None) -> Json:
        """Read."""

    def patch(self, path: str, change: Json, *, dry_run: bool = False) -> Json:
        """Merge a change."""

    def close(self) -> None:
        """Free the connections."""


class KubernetesCluster:
    """One namespace."""

    def __init__(self, api: Asking, namespace: str) -> None:
        self._api = api
        self._namespace = namespace

    @property
    def namespace(self) -> str:
        """Where the workloads are."""
        return self._namespace

    def workloads(self) -> tuple[Workload, ...]:
        """All of ours, by kind and name."""
        held = read_autoscalers({"items": list(self._items(AUTOSCALERS, "", optional=True))})
        found = [
            read_workload(kind, item, held.get((kind, item["metadata"]["name"]), ""))
            for kind, where in (APPS | OPTIONAL).items()
            if kind != "JobSet"
            for item in self._items(where, OURS, optional=kind in OPTIONAL)
        ]
        found += [read_jobset(item) for item in self._items(OPTIONAL["JobSet"], OURS, optional=True)]
        return tuple(sorted(found, key=lambda each: (each.kind, each.name)))

    def pods(self, selector: str) -> tuple[Pod, ...]:
        """Pods of a label selector, by name."""
        found = [read_pod(item) for item in self._items(PODS, selector)]
        return tuple(sorted(found, key=lambda each: each.name))

    def scale(self, name: str, replicas: int, *, dry_run: bool = False) -> Workload:
        """Ask for so many replicas; refused while an autoscaler would take them back."""
        found = find_workload(self.workloads(), name, self._namespace)
        check_replicas(found, replicas)
        if found.autoscaler:
            raise PreconditionError(
                f"{found.kind}/{found.name} is scaled by {found.autoscaler}, which would undo this: hold it "
                f"at {replicas} (only KEDA's can be held) or change the autoscaler's bounds"
            )
        path = self._path((APPS | OPTIONAL)[found.kind], found.name)
        reply = self._api.patch(f"{path}/scale", {"spec": {"replicas": replicas}}, dry_run=dry_run)
        return replace(found, wanted=reply.get("spec", {}).get("replicas", 0))

    def hold(self, name: str, replicas: int | None, *, dry_run: bool = False) -> Workload:
        """Fix what KEDA scales at so many replicas; None: KEDA scales it again."""
        found = find_workload(self.workloads(), name, self._namespace)
        kind, _, scaler = found.autoscaler.partition("/")
        if kind != "ScaledObject":
            raise InvalidInputError(
                f"{found.kind}/{found.name} is not scaled by KEDA "
                f"({found.autoscaler or 'nobody scales it'}): there is nothing to hold"
            )
        if replicas is not None:
            check_replicas(found, replicas)
        value = None if replicas is None else str(replicas)
        change = {"metadata": {"annotations": {PAUSED_AT: value}}}
        self._api.patch(self._path(SCALED_OBJECTS, scaler), change, dry_run=dry_run)
        return found if replicas is None else replace(found, wanted=replicas)

    def set_deletion_cost(self, pod: str, cost: int) -> None:
        """Annotate a pod; one that is gone already is fine."""
        change = {"metadata": {"annotations": {DELETION_COST: str(cost)}}}
        try:
            self._api.patch(self._path(PODS, pod), change)
        except NotFoundError:
            return

    def close(self) -> None:
        """Free the connections."""
        self._api.close()

    def _path(self, where: str, name: str = "") -> str:
        group, _, plural = where.partition(":")
        path = f"/{group}/namespaces/{quote(self._namespace, safe='')}/{plural}"
        return f"{path}/{quote(name, safe='')}" if name else path

    def _items(self, where: str, selector: str, *, optional: bool = False) -> Iterator[Json]:
        """Of all pages. A kind that the cluster lacks, or that nobody lets us read, has none."""
        query = {"limit": PAGE} | ({"labelSelector": selector} if selector else {})
        while True:
            try:
                reply = self._api.get(self._path(where), query)
            except (NotFoundError, PreconditionError):
                if not optional:
                    raise
                return
            yield from reply.get("items", [])
            following = reply.get("metadata", {}).get("continue", "")
            if not following:
                return
            query["continue"] = following
