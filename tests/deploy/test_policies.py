"""Every rendering keeps every policy, and every policy notices what it is there for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.deploy import policies
from tests.deploy.policies import POLICIES, Policy, broken, workload_named
from tests.deploy.rendering import Doc, Rendered, folders, look, render

Change = Callable[[list[Doc]], Any]


@pytest.mark.parametrize("folder", folders())
def test_every_rendering_keeps_every_policy(folder: str) -> None:
    rendered = Rendered(look(folder))
    assert [text for policy in POLICIES for text in broken(rendered, policy)] == []


def _main(docs: list[Doc], name: str = "rollout") -> Doc:
    return workload_named(docs, name).main


def _pod(docs: list[Doc], name: str = "rollout") -> Doc:
    found: Doc = next(doc for doc in docs if doc["kind"] == "Deployment" and doc["metadata"]["name"] == name)
    pod: Doc = found["spec"]["template"]["spec"]
    return pod


def _drop(docs: list[Doc], kind: str, name: str) -> None:
    docs[:] = [doc for doc in docs if (doc["kind"], doc["metadata"]["name"]) != (kind, name)]


def _one(docs: list[Doc], kind: str, name: str) -> Doc:
    return Rendered(docs).one(kind, name)


def _let_out(docs: list[Doc]) -> None:
    _one(docs, "NetworkPolicy", "dns")["spec"]["podSelector"] = {}


MUTATIONS: list[tuple[Policy, Change]] = [
    (policies.references_resolve, lambda docs: _drop(docs, "PersistentVolumeClaim", "ledger")),
    (policies.references_resolve, lambda docs: _main(docs)["envFrom"][0]["configMapRef"].update(name="old")),
    (policies.no_root, lambda docs: _pod(docs)["securityContext"].update(runAsUser=0)),
    (policies.no_root, lambda docs: _pod(docs)["securityContext"].pop("runAsNonRoot")),
    (policies.no_root, lambda docs: _pod(docs)["securityContext"].pop("seccompProfile")),
    (policies.no_root, lambda docs: _pod(docs).update(hostNetwork=True)),
    (policies.no_root, lambda docs: _pod(docs)["volumes"].append({"name": "x", "hostPath": {"path": "/"}})),
    (policies.no_root, lambda docs: _main(docs)["securityContext"].pop("readOnlyRootFilesystem")),
    (
        policies.no_root,
        lambda docs: _main(docs)["securityContext"].update(capabilities={"add": ["SYS_ADMIN"]}),
    ),
    (policies.no_root, lambda docs: _pod(docs, "buffer")["initContainers"][0].pop("securityContext")),
    (
        policies.namespaces_are_restricted,
        lambda docs: _one(docs, "Namespace", "forklight")["metadata"]["labels"].clear(),
    ),
    (policies.namespaces_are_restricted, lambda docs: _drop(docs, "Namespace", "forklight-sandbox")),
    (policies.resources_are_bounded, lambda docs: _main(docs)["resources"]["limits"].pop("memory")),
    (policies.resources_are_bounded, lambda docs: _main(docs)["resources"]["requests"].pop("nvidia.com/gpu")),
    (policies.resources_are_bounded, lambda docs: _pod(docs)["volumes"][0].update(emptyDir={})),
    (policies.probes_are_set, lambda docs: _main(docs, "reward-front").pop("livenessProbe")),
    (policies.probes_are_set, lambda docs: _main(docs)["readinessProbe"]["grpc"].pop("service")),
    (policies.probes_are_set, lambda docs: _main(docs)["livenessProbe"]["grpc"].update(service="ready")),
    (policies.images_are_pinned, lambda docs: _main(docs).update(image="forklight-rollout:latest")),
    (policies.images_are_pinned, lambda docs: _main(docs).update(image="docker.io/valkey/valkey")),
    (policies.rights_are_least, lambda docs: _pod(docs).update(automountServiceAccountToken=True)),
    (policies.rights_are_least, lambda docs: _pod(docs).update(serviceAccountName="default")),
    (policies.rights_are_least, lambda docs: _pod(docs).pop("enableServiceLinks")),
    (
        policies.rights_are_least,
        lambda docs: _one(docs, "Role", "console")["rules"][0].update(resources=["secrets"]),
    ),
    (policies.rights_are_least, lambda docs: _one(docs, "Role", "console")["rules"][0].update(verbs=["*"])),
    (
        policies.rights_are_least,
        lambda docs: _one(docs, "RoleBinding", "console")["subjects"][0].update(name="buffer"),
    ),
    (policies.traffic_is_closed, lambda docs: _drop(docs, "NetworkPolicy", "deny-all")),
    (policies.traffic_is_closed, lambda docs: _drop(docs, "NetworkPolicy", "buffer")),
    (policies.traffic_is_closed, _let_out),
    (
        policies.traffic_is_closed,
        lambda docs: _one(docs, "NetworkPolicy", "reward-sandbox")["spec"].update(egress=[{}]),
    ),
    (policies.drains_are_safe, lambda docs: _drop(docs, "PodDisruptionBudget", "rollout")),
    (
        policies.drains_are_safe,
        lambda docs: _one(docs, "PodDisruptionBudget", "buffer")["spec"].pop("unhealthyPodEvictionPolicy"),
    ),
    (
        policies.priorities_are_ordered,
        lambda docs: _one(docs, "PriorityClass", "forklight-rollout").update(value=10**6),
    ),
    (policies.priorities_are_ordered, lambda docs: _pod(docs).pop("priorityClassName")),
    (policies.programs_are_walled, lambda docs: _drop(docs, "RuntimeClass", "gvisor")),
    (policies.programs_are_walled, lambda docs: _pod(docs, "reward-sandbox").pop("runtimeClassName")),
    (policies.one_writer, lambda docs: _one(docs, "Deployment", "buffer")["spec"].update(replicas=2)),
    (
        policies.one_writer,
        lambda docs: _one(docs, "Deployment", "rollout")["spec"]["strategy"]["rollingUpdate"].update(
            maxSurge=1
        ),
    ),
]


@pytest.mark.parametrize(("policy", "change"), MUTATIONS)
def test_policy_notices(policy: Policy, change: Change) -> None:
    docs = render("overlays/gpu")
    change(docs)
    assert broken(Rendered(docs), policy)


def test_a_gang_with_a_budget_is_noticed() -> None:
    docs = render("overlays/h800")
    gang = workload_named(docs, "trainer")
    gang.template["metadata"]["annotations"].clear()
    assert broken(Rendered(docs), policies.drains_are_safe)


def test_every_policy_is_tried() -> None:
    assert {policy for policy, _ in MUTATIONS} == set(POLICIES)
