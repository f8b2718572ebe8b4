"""What Forklight asks of a Kubernetes cluster, and the words it is told in.

Workloads are found by the label `app.kubernetes.io/part-of=forklight`; what they are by `.../component`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from forklight_core.errors import InvalidInputError, NotFoundError

PART_OF = "app.kubernetes.io/part-of"
COMPONENT = "app.kubernetes.io/component"
VERSION = "app.kubernetes.io/version"
OURS = f"{PART_OF}=forklight"
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
MOST_REPLICAS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A Deployment, StatefulSet, JobSet or LeaderWorkerSet of ours."""

    name: str
    kind: str
    wanted: int
    ready: int
    component: str = ""
    """What it runs: rollout, buffer, trainer ..."""
    image: str = ""
    version: str = ""
    selector: str = ""
    """Label selector of its pods."""
    scalable: bool = True
    autoscaler: str = ""
    """Who else sets its replicas, as kind/name; empty: nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """One pod of a workload."""

    name: str
    phase: str
    """Pending, Running, Succeeded, Failed, Unknown, or Terminating."""
    node: str = ""
    ready: bool = False
    restarts: int = 0
    started_at: float = 0.0
    """Unix seconds; 0: not started."""
    deletion_cost: int = 0
    """The cheapest goes first when a workload shrinks."""
    reason: str = ""
    """Why it does not run, in the cluster's word (CrashLoopBackOff, Unschedulable ...); empty: it does."""


class Cluster(Protocol):
    """One namespace. Every call may raise what `kubernetes_api.py` says."""

    @property
    def namespace(self) -> str:
        """Where the workloads are."""

    def workloads(self) -> tuple[Workload, ...]:
        """All of ours, by kind and name."""

    def pods(self, selector: str) -> tuple[Pod, ...]:
        """Pods of a label selector (`Workload.selector`), by name."""

    def scale(self, name: str, replicas: int, *, dry_run: bool = False) -> Workload:
        """Ask for so many replicas of a workload, by its name or its component; returns it as it is then."""

    def hold(self, name: str, replicas: int | None, *, dry_run: bool = False) -> Workload:
        """Fix the replicas of a workload that KEDA scales; None gives it back to KEDA."""

    def set_deletion_cost(self, pod: str, cost: int) -> None:
        """Annotate a pod; one that is gone already is fine."""

    def close(self) -> None:
        """Free the connections."""


def find_workload(workloads: tuple[Workload, ...], name: str, namespace: str) -> Workload:
    """By its exact name, else the only one of that component."""
    named = [each for each in workloads if each.name == name]
    found = named or [each for each in workloads if each.component == name]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f"{each.kind}/{each.name}" for each in found)
        raise InvalidInputError(f"{name!r} is not one workload of namespace {namespace}: name one of {names}")
    names = ", ".join(each.name for each in workloads) or f"none has the label {OURS}"
    raise NotFoundError(f"namespace {namespace} has no workload {name!r} (it has: {names})")


def check_replicas(workload: Workload, replicas: int) -> None:
    """Refuse what no workload can be asked for."""
    if not 0 <= replicas <= MOST_REPLICAS:
        raise InvalidInputError(f"{replicas} replicas: ask for 0 to {MOST_REPLICAS}")
    if not workload.scalable:
        raise InvalidInputError(
            f"{workload.kind}/{workload.name} has a fixed size: a gang is not scaled while it runs; change "
            f"its manifest and apply it"
        )
