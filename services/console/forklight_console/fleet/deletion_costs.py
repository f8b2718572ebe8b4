"""Which pod goes first when the fleet shrinks: the one that holds the least work.

A pod's cost is the number of groups it holds, as the buffer tells it: the cluster removes the cheapest first,
so one that idles or has drained goes before one that generates. Set here and not by the pods themselves: who
may annotate a pod may change any pod of the namespace, and rollout pods need no token at all. Off unless
FORKLIGHT_DELETION_COSTS is set. While the console is away the costs stay as they are: that costs work, no
sample.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from forklight.v1 import buffer_pb2
from forklight_console.ports import RunView
from forklight_core.cluster import COMPONENT, OURS, Cluster, Pod
from forklight_core.errors import ForklightError

log = logging.getLogger(__name__)

EVERY_S = 10.0
MOST_AT_ONCE = 100
"""Pods of one pass: an API server is not to be flooded by a fleet."""
ROLLOUT = f"{OURS},{COMPONENT}=rollout"
GENERATING = ("tasks", "evaluate")


class DeletionCosts:
    """Tells the cluster. What goes wrong is logged once until it goes right again: it is advice, no more."""

    def __init__(self, view: RunView, cluster: Cluster) -> None:
        self._view, self._cluster = view, cluster
        self._is_troubled = False

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.tell()
            await asyncio.sleep(EVERY_S)

    async def tell(self) -> None:
        """One pass."""
        try:
            held, is_whole = held_groups(await self._view.status())
            await asyncio.to_thread(self._annotate, held, is_whole)
        except ForklightError as error:
            if not self._is_troubled:
                log.warning("pods are not told their deletion cost", extra={"reason": str(error)})
            self._is_troubled = True
        else:
            self._is_troubled = False

    def _annotate(self, held: Counter[str], is_whole: bool) -> None:
        pods = [pod for pod in self._cluster.pods(ROLLOUT) if is_whole or pod.name in held]
        for pod in changed_pods(pods, held)[:MOST_AT_ONCE]:
            self._cluster.set_deletion_cost(pod.name, held[pod.name])


def held_groups(status: buffer_pb2.GetStatusReply) -> tuple[Counter[str], bool]:
    """Groups by pod, and whether those are all pods that hold any: the buffer names the busiest."""
    queues = [queue for queue in status.queues if queue.name in GENERATING]
    held: Counter[str] = Counter()
    for queue in queues:
        held.update({holder.name: holder.num_leased for holder in queue.holders})
    return held, held.total() >= sum(queue.num_leased for queue in queues)


def changed_pods(pods: list[Pod], held: Counter[str]) -> list[Pod]:
    """Pods whose cost is another one now, those that are furthest from it first."""
    changed = [pod for pod in pods if pod.phase == "Running" and pod.deletion_cost != held[pod.name]]
    return sorted(changed, key=lambda pod: -abs(pod.deletion_cost - held[pod.name]))
