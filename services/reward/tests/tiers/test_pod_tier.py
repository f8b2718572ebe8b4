"""Tier pod: the real client against a server that speaks its part of the API and starts processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from kubernetes import client

from forklight_core.errors import UnavailableError
from forklight_core.runfile.schema import SandboxSection
from forklight_reward.sandbox.result import Class
from forklight_reward.sandbox.tiers.cluster import Cluster
from forklight_reward.sandbox.tiers.owner import OWNER_LABEL
from forklight_reward.sandbox.tiers.pod import PodRunner
from services.reward.tests.tiers.api_server import Cluster as Served
from services.reward.tests.tiers.api_server import serve_cluster
from services.reward.tests.tiers.jobs import DAEMON, HOSTILE, program, run_command, run_honest, run_own_file

IMAGE = "registry.example/sandbox@sha256:" + "0" * 64


def open_pods(served: Served, *, warm: int = 0, runtime_class: str = "gvisor") -> PodRunner:
    """A runner over the served cluster."""
    section = SandboxSection(tier="pod", image=IMAGE, warm=warm, runtime_class=runtime_class)
    api_client = client.ApiClient(client.Configuration(host=served.url))
    return PodRunner(Cluster(api_client, section.namespace), section)


@pytest.fixture
def served() -> Iterator[Served]:
    with serve_cluster() as cluster:
        yield cluster


@pytest.fixture
def pods(served: Served) -> Iterator[PodRunner]:
    made = open_pods(served)
    yield made
    made.close()
    assert not served.pods


def test_jobs_of_every_kind_run_each_in_its_own_pod(served: Served, pods: PodRunner) -> None:
    run_honest(pods)
    assert run_command(pods).broke is None
    run_own_file(pods)
    names = [pod["metadata"]["name"] for pod in served.created]
    assert len(set(names)) == 7
    assert served.deleted == names


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_is_stopped_and_its_pod_deleted(served: Served, pods: PodRunner, name: str) -> None:
    source, classes = HOSTILE[name]
    assert pods.run(program(source)).broke in classes
    assert not served.pods
    assert len(served.deleted) == 1


def test_a_daemon_holds_nothing_open(pods: PodRunner) -> None:
    began = time.monotonic()
    assert pods.run(program(DAEMON)).stdout == b"gone\n"
    assert time.monotonic() - began < 5


def test_the_guest_cannot_be_killed_or_traced_by_its_job(pods: PodRunner) -> None:
    source = (
        "import os, ctypes\nfor number in (9, 19, 15):\n    os.kill(1, number)\n"
        "libc = ctypes.CDLL(None, use_errno=True)\nprint(libc.ptrace(16, 1, 0, 0))\n"
        "try:\n    open('/proc/1/mem', 'r+b')\nexcept OSError:\n    print('closed')\n"
        "try:\n    os.open('/proc/1/fd/1', os.O_WRONLY)\nexcept OSError:\n    print('closed')"
    )
    ended = pods.run(program(source))
    assert (ended.broke, ended.stdout) == (None, b"-1\nclosed\nclosed\n"), ended.stderr


def test_the_pod_asks_for_every_wall(served: Served, pods: PodRunner) -> None:
    pods.run(program("pass"))
    assert served.queries[0]["fieldValidation"] == ["Strict"]
    spec = served.created[0]["spec"]
    assert spec["runtimeClassName"] == "gvisor"
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["restartPolicy"] == "Never"
    assert 0 < spec["activeDeadlineSeconds"] <= 3600
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 60000
    assert {"hostPath", "secret", "configMap", "projected"}.isdisjoint(
        kind for volume in spec["volumes"] for kind in volume
    )
    assert all(volume["emptyDir"]["sizeLimit"] == "8Mi" for volume in spec["volumes"])
    (container,) = spec["containers"]
    walls = container["securityContext"]
    assert walls["readOnlyRootFilesystem"] is True
    assert walls["allowPrivilegeEscalation"] is False
    assert walls["capabilities"] == {"drop": ["ALL"]}
    assert walls["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["resources"]["requests"] == container["resources"]["limits"]


def test_a_pod_that_ends_on_its_own_is_no_verdict_unless_memory_ended_it(
    served: Served, pods: PodRunner
) -> None:
    def cut_down(reason: str) -> None:
        deadline = time.monotonic() + 10
        while not served.processes and time.monotonic() < deadline:
            time.sleep(0.01)
        served.terminated = reason
        next(iter(served.processes.values())).kill()

    for reason, is_verdict in (("Error", False), ("OOMKilled", True)):
        job = program("import time\ntime.sleep(2)")
        killer = threading.Timer(0.8, cut_down, (reason,))
        killer.start()
        if is_verdict:
            assert pods.run(job).broke is Class.MEMORY_LIMIT
        else:
            with pytest.raises(UnavailableError, match="went away in the middle"):
                pods.run(job)
        killer.join()
    assert not served.pods


def test_a_pod_that_cannot_start_says_why_and_is_deleted(served: Served, pods: PodRunner) -> None:
    served.waiting = "ImagePullBackOff"
    with pytest.raises(UnavailableError, match="ImagePullBackOff"):
        pods.run(program("pass"))
    assert not served.pods


def test_a_namespace_without_walls_is_refused(served: Served) -> None:
    served.policies = [{"metadata": {"name": "x"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}]
    with pytest.raises(UnavailableError, match=r"denies all traffic.*namespace\.yaml"):
        open_pods(served)
    served.policies[0]["spec"] |= {"policyTypes": ["Ingress", "Egress"], "egress": [{}]}
    with pytest.raises(UnavailableError, match="denies all traffic"):
        open_pods(served)


def test_what_a_dead_service_left_is_deleted_and_nothing_else(served: Served) -> None:
    first = open_pods(served, warm=1)
    first.run(program("pass"))
    deadline = time.monotonic() + 10
    while not served.pods and time.monotonic() < deadline:
        time.sleep(0.01)
    old = served.created[0] | {"metadata": {"name": "old", "labels": {OWNER_LABEL: "elsewhere-1.2.3.4"}}}
    served.pods["old"] = old
    second = open_pods(served)
    assert "old" not in served.pods
    assert len(served.pods) == 1
    second.close()
    first.close()
    assert not served.pods


def test_a_cluster_that_is_away_is_named() -> None:
    api_client = client.ApiClient(client.Configuration(host="http://127.0.0.1:9", retries=False))
    with pytest.raises(UnavailableError, match="the cluster failed to list network policies"):
        PodRunner(Cluster(api_client, "n"), SandboxSection(tier="pod", image=IMAGE))
