"""Workloads of a cluster: the real client against a server that speaks its part of the API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client

from forklight_core.cluster import DELETION_COST, MemoryCluster, Pod, Workload, open_cluster
from forklight_core.cluster.connect import Api
from forklight_core.cluster.kubernetes_api import KubernetesCluster
from forklight_core.errors import (
    BusyError,
    ConfigError,
    DeadlineError,
    ForklightError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
)
from libs.core.tests.api_server import ApiServer, serve_api, workload


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with serve_api() as served:
        served.add("apps/v1:deployments", workload("rollout", replicas=3, ready=2))
        served.add("apps/v1:deployments", workload("judge-small", replicas=1, component="judge"))
        served.add("apps/v1:deployments", workload("judge-large", replicas=1, component="judge"))
        served.add("apps/v1:statefulsets", workload("buffer", ready=1))
        stranger = workload("stranger")
        stranger["metadata"]["labels"] = {}
        served.add("apps/v1:deployments", stranger)
        yield served


def open_it(api: ApiServer, *, timeout_s: float = 5.0) -> KubernetesCluster:
    settings = client.Configuration(host=api.url)
    settings.retries = 0
    return KubernetesCluster(Api(client.ApiClient(settings), timeout_s), "forklight")


def test_workloads_are_those_of_ours_on_all_pages(api: ApiServer) -> None:
    api.page = 1
    found = open_it(api).workloads()
    assert [(each.kind, each.name, each.wanted, each.ready) for each in found] == [
        ("Deployment", "judge-large", 1, 0),
        ("Deployment", "judge-small", 1, 0),
        ("Deployment", "rollout", 3, 2),
        ("StatefulSet", "buffer", 1, 1),
    ]
    rollout = found[2]
    assert (rollout.component, rollout.version, rollout.image) == ("rollout", "0.1.0", "forklight/rollout:1")
    assert rollout.selector == "app.kubernetes.io/name=rollout"


def test_gangs_and_groups_of_pods_are_read_when_the_cluster_knows_them(api: ApiServer) -> None:
    labels = {"app.kubernetes.io/part-of": "forklight", "app.kubernetes.io/component": "trainer"}
    job = {
        "spec": {"parallelism": 4, "template": {"spec": {"containers": [{"image": "forklight/trainer:1"}]}}}
    }
    gang = {
        "metadata": {"name": "trainer", "labels": labels},
        "spec": {"replicatedJobs": [{"name": "node", "replicas": 2, "template": job}]},
        "status": {"replicatedJobsStatus": [{"name": "node", "ready": 1}]},
    }
    api.add("jobset.x-k8s.io/v1alpha2:jobsets", gang)
    api.add("leaderworkerset.x-k8s.io/v1:leaderworkersets", workload("rollout-wide", replicas=2))
    cluster = open_it(api)
    found = {each.name: each for each in cluster.workloads()}
    trainer = found["trainer"]
    assert (trainer.kind, trainer.wanted, trainer.ready, trainer.component) == ("JobSet", 8, 4, "trainer")
    assert trainer.selector == "jobset.sigs.k8s.io/jobset-name=trainer"
    with pytest.raises(InvalidInputError, match="fixed size"):
        cluster.scale("trainer", 4)
    assert cluster.scale("rollout-wide", 5).wanted == 5
    assert api.requests[-1][1].endswith("/leaderworkersets/rollout-wide/scale")


def test_pods_say_what_is_wrong_with_them(api: ApiServer) -> None:
    label = {"app.kubernetes.io/name": "rollout"}
    waiting = [{"restartCount": 7, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]
    unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU"}
    healthy = {
        "phase": "Running",
        "startTime": "2026-11-22T10:00:00Z",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"restartCount": 1, "state": {"running": {}}}],
    }
    for name, status in {
        "crashing": {"phase": "Running", "containerStatuses": waiting},
        "healthy": healthy,
        "unplaced": {"phase": "Pending", "conditions": [unplaced]},
    }.items():
        costs = {DELETION_COST: "12" if name == "healthy" else "plenty"}
        api.add(
            "v1:pods", {"metadata": {"name": name, "labels": label, "annotations": costs}, "status": status}
        )
    api.add("v1:pods", {"metadata": {"name": "gone", "labels": label, "deletionTimestamp": "now"}})
    crashing, gone, healthy_pod, unplaced_pod = open_it(api).pods("app.kubernetes.io/name=rollout")
    assert (crashing.reason, crashing.restarts, crashing.deletion_cost) == ("CrashLoopBackOff", 7, 0)
    assert gone.phase == "Terminating"
    assert unplaced_pod.reason == "Unschedulable: no GPU"
    assert healthy_pod == Pod(
        name="healthy", phase="Running", ready=True, restarts=1, started_at=1795341600.0, deletion_cost=12
    )


def test_scaling_sets_replicas_by_name_or_component_and_dry_runs_change_nothing(api: ApiServer) -> None:
    cluster = open_it(api)
    assert cluster.scale("rollout", 8, dry_run=True).wanted == 8
    assert cluster.workloads()[2].wanted == 3
    assert cluster.scale("rollout", 8).wanted == 8
    assert cluster.workloads()[2].wanted == 8
    assert cluster.scale("rollout", 0).wanted == 0
    with pytest.raises(InvalidInputError, match="name one of Deployment/judge-large, Deployment/judge-small"):
        cluster.scale("judge", 2)
    with pytest.raises(NotFoundError, match="no workload 'rolout'"):
        cluster.scale("rolout", 2)
    with pytest.raises(InvalidInputError, match="-1 replicas"):
        cluster.scale("rollout", -1)


def test_what_an_autoscaler_scales_is_held_not_scaled(api: ApiServer) -> None:
    scaler = {
        "metadata": {"name": "keda-hpa-rollout", "labels": {"scaledobject.keda.sh/name": "rollout-demand"}},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "rollout"}},
    }
    api.add("autoscaling/v2:horizontalpodautoscalers", scaler)
    api.add("keda.sh/v1alpha1:scaledobjects", {"metadata": {"name": "rollout-demand"}})
    cluster = open_it(api)
    with pytest.raises(PreconditionError, match="ScaledObject/rollout-demand, which would undo this"):
        cluster.scale("rollout", 8)
    assert cluster.hold("rollout", 8).wanted == 8
    held = api.objects[("apis/keda.sh/v1alpha1", "forklight", "scaledobjects")]
    paused_at = "autoscaling.keda.sh/paused-replicas"
    assert held["rollout-demand"]["metadata"]["annotations"] == {paused_at: "8"}
    cluster.hold("rollout", None)
    assert held["rollout-demand"]["metadata"]["annotations"] == {}
    with pytest.raises(InvalidInputError, match="nobody scales it"):
        cluster.hold("buffer", 2)


@pytest.mark.parametrize(
    ("status", "expected", "match"),
    [
        (401, PreconditionError, "sign in again"),
        (403, PreconditionError, "bind this account to a Role"),
        (404, NotFoundError, "404"),
        (409, BusyError, "try again"),
        (422, InvalidInputError, "422"),
        (503, UnavailableError, "503"),
    ],
)
def test_refusals_become_errors_that_say_what_to_do(
    api: ApiServer, status: int, expected: type[ForklightError], match: str
) -> None:
    api.refusals["PATCH /apis/apps/v1"] = (status, "as the server puts it")
    with pytest.raises(expected, match=match) as caught:
        open_it(api).scale("rollout", 8)
    assert "as the server puts it" in str(caught.value)
    assert "deployments/rollout/scale" in str(caught.value)


def test_kinds_nobody_may_read_are_left_out_but_the_ordinary_ones_are_not(api: ApiServer) -> None:
    api.refusals["GET /apis/jobset"] = (403, "forbidden")
    assert len(open_it(api).workloads()) == 4
    api.refusals["GET /apis/apps"] = (403, "deployments is forbidden")
    with pytest.raises(PreconditionError, match="deployments is forbidden"):
        open_it(api).workloads()


def test_a_server_that_is_silent_or_absent_is_told_apart(api: ApiServer) -> None:
    api.silent_s = 1.0
    with pytest.raises(DeadlineError, match="no answer within 0.2 s"):
        open_it(api, timeout_s=0.2).workloads()
    api.url = "http://127.0.0.1:1"
    with pytest.raises(UnavailableError, match="127.0.0.1:1"):
        open_it(api).workloads()


def test_deletion_costs_are_set_and_a_pod_that_is_gone_is_fine(api: ApiServer) -> None:
    api.add("v1:pods", {"metadata": {"name": "rollout-1", "labels": {}}})
    cluster = open_it(api)
    cluster.set_deletion_cost("rollout-1", 4)
    cluster.set_deletion_cost("rollout-2", 4)
    assert [pod.deletion_cost for pod in cluster.pods("")] == [4]


def test_the_kubeconfig_says_where_unless_somebody_does(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kubernetes.config import kube_config

    path = api.write_kubeconfig(tmp_path / "config")
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    assert open_cluster().namespace == "forklight"
    assert len(open_cluster().workloads()) == 4
    assert api.authorization == "Bearer secret"
    assert open_cluster(namespace="other").workloads() == ()
    with pytest.raises(UnavailableError):
        open_cluster(context="nobody").workloads()
    with pytest.raises(ConfigError, match="context 'absent'"):
        open_cluster(context="absent")
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="set KUBECONFIG"):
        open_cluster()


def test_the_cluster_in_memory_does_the_same() -> None:
    rollout = Workload(name="rollout", kind="Deployment", wanted=1, ready=1, selector="a=b")
    cluster = MemoryCluster([rollout], {"a=b": (Pod(name="p", phase="Running"),)})
    assert cluster.scale("rollout", 3, dry_run=True).wanted == 3
    assert cluster.workloads()[0].wanted == 1
    assert cluster.scale("rollout", 3) == cluster.workloads()[0]
    cluster.set_deletion_cost("p", 5)
    assert cluster.pods("a=b")[0].deletion_cost == 5
