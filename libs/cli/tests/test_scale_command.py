"""`forklight scale` against a server that speaks the cluster's REST paths."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from kubernetes.config import kube_config

from forklight_cli.commands.scale import scale
from forklight_core.errors import ForklightError
from libs.core.tests.api_server import ApiServer, serve_api, workload

DEPLOYMENTS = ("apis/apps/v1", "forklight", "deployments")


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    with serve_api() as served:
        served.add("apps/v1:deployments", workload("rollout", replicas=2, ready=2))
        path = served.write_kubeconfig(tmp_path / "config")
        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(path))
        yield served


def call(*arguments: str) -> Result:
    return CliRunner().invoke(scale, arguments)


def wanted(api: ApiServer) -> int:
    return int(api.objects[DEPLOYMENTS]["rollout"]["spec"]["replicas"])


def test_a_workload_is_scaled_and_a_dry_run_changes_nothing(api: ApiServer) -> None:
    tried = call("rollout", "5", "--dry-run")
    assert tried.output == "Deployment/rollout in forklight: 5 wanted, 2 ready (nothing changed)\n"
    assert wanted(api) == 2
    assert call("rollout", "5").output == "Deployment/rollout in forklight: 5 wanted, 2 ready\n"
    assert wanted(api) == 5


def test_waiting_ends_when_the_pods_are_ready_or_says_what_they_lack(api: ApiServer) -> None:
    def become_ready() -> None:
        api.objects[DEPLOYMENTS]["rollout"]["status"] = {"readyReplicas": 3}

    timer = threading.Timer(0.5, become_ready)
    timer.start()
    done = call("rollout", "3", "--wait")
    timer.join()
    assert "3 ready after" in done.output
    unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU"}
    pod = {"name": "rollout-9", "labels": {"app.kubernetes.io/name": "rollout"}}
    api.add("v1:pods", {"metadata": pod, "status": {"phase": "Pending", "conditions": [unplaced]}})
    late = call("rollout", "4", "--wait", "1")
    assert isinstance(late.exception, ForklightError)
    assert "3 of 4 pods of Deployment/rollout" in str(late.exception)
    assert "rollout-9: Unschedulable: no GPU" in str(late.exception)


def test_kedas_workload_is_held_and_given_back(api: ApiServer) -> None:
    scaler = {
        "metadata": {"name": "keda-hpa-rollout", "labels": {"scaledobject.keda.sh/name": "rollout"}},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "rollout"}},
    }
    api.add("autoscaling/v2:horizontalpodautoscalers", scaler)
    api.add("keda.sh/v1alpha1:scaledobjects", {"metadata": {"name": "rollout"}})
    refused = call("rollout", "8")
    assert "is scaled by ScaledObject/rollout" in str(refused.exception)
    assert call("rollout", "8", "--hold").output == "Deployment/rollout in forklight: 8 wanted, 2 ready\n"
    assert call("rollout", "auto").output.endswith("is scaled by ScaledObject/rollout again\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("rolout", "3"), 2, "has no workload 'rolout' (it has: rollout)"),
        (("rollout", "many"), 2, "'many': expected a number of pods, or auto"),
        (("rollout", "3", "--context", "nobody"), 3, "127.0.0.1:1"),
        (("rollout", "3", "--context", "absent"), 2, "context 'absent'"),
        (("{run}", "3"), 2, "forklight resume"),
    ],
)
def test_wrong_input_is_one_message_and_an_exit_code(
    api: ApiServer, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    (tmp_path / "run.toml").write_text("")
    given = [each.format(run=tmp_path) for each in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "forklight_cli", "scale", *given],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"KUBECONFIG": str(api.write_kubeconfig(tmp_path / "config"))},
    )
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_right_that_is_missing_is_told(api: ApiServer) -> None:
    api.refusals["PATCH /apis/apps/v1"] = (403, 'deployments.apps "rollout" is forbidden')
    refused = call("rollout", "5")
    assert "is forbidden" in str(refused.exception)
    assert "bind this account to a Role" in str(refused.exception)
    assert wanted(api) == 2
