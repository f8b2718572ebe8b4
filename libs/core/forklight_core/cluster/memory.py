"""A cluster of plain objects, for tests of whoever reads or scales one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from forklight_core.cluster.port import Pod, Workload, check_replicas, find_workload
from forklight_core.errors import InvalidInputError


class MemoryCluster:
    """Holds what it is given; scaling takes effect at once."""

    def __init__(
        self,
        workloads: Iterable[Workload] = (),
        pods: dict[str, tuple[Pod, ...]] | None = None,
        *,
        namespace: str = "forklight",
    ) -> None:
        self._workloads = {each.name: each for each in workloads}
        self._pods = pods or {}
        self._namespace = namespace

    @property
    def namespace(self) -> str:
        """Where the workloads are."""
        return self._namespace

    def workloads(self) -> tuple[Workload, ...]:
        """All, by kind and name."""
        return tuple(sorted(self._workloads.values(), key=lambda each: (each.kind, each.name)))

    def pods(self, selector: str) -> tuple[Pod, ...]:
        """Those given for the selector."""
        return self._pods.get(selector, ())

    def scale(self, name: str, replicas: int, *, dry_run: bool = False) -> Workload:
        """Wanted and ready at once."""
        found = find_workload(self.workloads(), name, self._namespace)
        check_replicas(found, replicas)
        scaled = replace(found, wanted=replicas, ready=replicas)
        if not dry_run:
            self._workloads[found.name] = scaled
        return scaled

    def hold(self, name: str, replicas: int | None, *, dry_run: bool = False) -> Workload:
        """Only what has an autoscaler can be held."""
        found = find_workload(self.workloads(), name, self._namespace)
        if not found.autoscaler:
            raise InvalidInputError(f"no autoscaler scales {found.name}: scale it")
        return found if replicas is None else self.scale(name, replicas, dry_run=dry_run)

    def set_deletion_cost(self, pod: str, cost: int) -> None:
        """Wherever the pod is."""
        for selector, pods in self._pods.items():
            self._pods[selector] = tuple(
                replace(each, deletion_cost=cost) if each.name == pod else each for each in pods
            )

    def close(self) -> None:
        """Nothing to free."""
