"""Pods are annotated with what they hold, and nothing else comes of it."""

from __future__ import annotations

import logging
from typing import cast

import pytest

from forklight.v1 import buffer_pb2
from forklight_console.fleet.deletion_costs import ROLLOUT, DeletionCosts
from forklight_console.ports import RunView
from forklight_core.cluster import MemoryCluster, Pod
from forklight_core.errors import PreconditionError


class View:
    """A buffer that says who holds what."""

    def __init__(self, *, leased: int, **held: int) -> None:
        self.leased, self.held = leased, held

    async def status(self) -> buffer_pb2.GetStatusReply:
        reply = buffer_pb2.GetStatusReply()
        tasks = reply.queues.add(name="tasks", num_leased=self.leased)
        for name, number in self.held.items():
            tasks.holders.add(name=name, num_leased=number)
        reply.queues.add(name="scoring", num_leased=9).holders.add(name="idle", num_leased=9)
        return reply


def make_cluster() -> MemoryCluster:
    pods = (
        Pod(name="busy", phase="Running"),
        Pod(name="idle", phase="Running", deletion_cost=7),
        Pod(name="new", phase="Pending", deletion_cost=7),
    )
    return MemoryCluster(pods={ROLLOUT: pods})


def costs_of(cluster: MemoryCluster) -> list[int]:
    return [pod.deletion_cost for pod in cluster.pods(ROLLOUT)]


async def test_a_pod_costs_the_groups_it_holds() -> None:
    cluster, view = make_cluster(), View(leased=2, busy=2)
    costs = DeletionCosts(cast("RunView", view), cluster)
    await costs.tell()
    assert costs_of(cluster) == [2, 0, 7]
    view.held, view.leased = {"idle": 1}, 1
    await costs.tell()
    assert costs_of(cluster) == [0, 1, 7]


async def test_a_pod_that_is_not_named_keeps_its_cost_when_only_the_busiest_are() -> None:
    cluster = make_cluster()
    await DeletionCosts(cast("RunView", View(leased=40, busy=2)), cluster).tell()
    assert costs_of(cluster) == [2, 7, 7]


class Forbidding(MemoryCluster):
    """Lets nobody read pods."""

    def pods(self, selector: str) -> tuple[Pod, ...]:
        raise PreconditionError("403 pods is forbidden")


async def test_a_cluster_that_forbids_it_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    costs = DeletionCosts(cast("RunView", View(leased=0)), Forbidding())
    with caplog.at_level(logging.WARNING):
        await costs.tell()
        await costs.tell()
    assert len(caplog.records) == 1
