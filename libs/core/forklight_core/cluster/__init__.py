"""The cluster a run lives in: workloads and pods. `open_cluster` needs the extra `kubernetes`."""

from forklight_core.cluster.memory import MemoryCluster
from forklight_core.cluster.port import (
    COMPONENT,
    DELETION_COST,
    OURS,
    VERSION,
    Cluster,
    Pod,
    Workload,
    find_workload,
)

__all__ = [
    "COMPONENT",
    "DELETION_COST",
    "OURS",
    "VERSION",
    "Cluster",
    "MemoryCluster",
    "Pod",
    "Workload",
    "find_workload",
    "open_cluster",
]


def open_cluster(*, namespace: str = "", context: str = "") -> Cluster:
    """The cluster this runs in, else that of the kubeconfig; empty namespace: the one they say."""
    from forklight_core.cluster.connect import connect

    return connect(namespace=namespace, context=context)
